# expect: model=Segmenter rule=class+get_inputs phase=encode/vision breaks=0 exit=0
"""One model and seven helpers that it uses, some only by way of tables and functions."""

import torch
from torch import nn


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class Mish(nn.Module):
    def forward(self, x):
        return x * nn.functional.softplus(x).tanh()


ACTIVATIONS = {"swish": Swish, "mish": Mish}


class LayerNorm2d(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class ChannelGate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x):
        return x * self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None]


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        return x * self.conv(torch.stack([x.mean(1), x.amax(1)], 1)).sigmoid()


def stage(c_in, c_out, activation):
    conv = nn.Conv2d(c_in, c_out, 3, padding=1)
    return nn.Sequential(conv, LayerNorm2d(c_out), ACTIVATIONS[activation](), ChannelGate(c_out), SpatialGate())


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(stage(3, 8, "swish"), stage(8, 8, "mish"), nn.Conv2d(8, 4, 1))

    def forward(self, x):
        return self.net(x)


def get_inputs():
    return [torch.rand(1, 3, 16, 16)]
