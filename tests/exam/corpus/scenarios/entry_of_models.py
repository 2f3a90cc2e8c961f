# expect: model=Encoder,Decoder rule=djinn_entry scenarios=encode,decode phase=encode/vision,forward breaks=0 exit=0
"""An entry that gives a model and inputs for each of two scenarios."""

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 16, 6))

    def forward(self, image):
        return self.net(image)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 128), nn.ConvTranspose2d(8, 1, 4, 4)

    def forward(self, code):
        return self.outer(nn.functional.softplus(self.inner(code)).view(-1, 8, 4, 4))


def djinn_entry():
    return {"encode": (Encoder(), torch.rand(2, 1, 16, 16)), "decode": (Decoder(), torch.randn(2, 6))}
