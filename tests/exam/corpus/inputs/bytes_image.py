# expect: model=FromBytes rule=model+example_input phase=encode/vision breaks=0 exit=0
"""An image as it comes from a camera: bytes, channels last."""

import torch
from torch import nn


class FromBytes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([123.7, 116.3, 103.5]))
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 8, 3, 2))

    def forward(self, frame):
        x = (frame.float() - self.mean) / 58.0
        return self.net(x.permute(0, 3, 1, 2).contiguous()).argmax(1).to(torch.uint8)


model = FromBytes()
example_input = torch.randint(0, 256, (1, 40, 60, 3), dtype=torch.uint8)
