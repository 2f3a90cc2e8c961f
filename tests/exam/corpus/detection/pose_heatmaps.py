# expect: model=Hourglass rule=class+init+get_inputs phase=encode/vision breaks=0 exit=0
"""A stacked hourglass: heat maps of joints, and where their mass is (soft argmax)."""

import torch
import torch.nn.functional as F
from torch import nn


class Hourglass(nn.Module):
    def __init__(self, depth, width, joints):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, 2, 3)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.out = nn.Conv2d(width, joints, 1)

    def forward(self, image):
        x = F.relu(self.stem(image))
        kept = []
        for conv in self.down:
            kept.append(x)
            x = F.relu(conv(F.max_pool2d(x, 2)))
        for conv in self.up:
            x = kept.pop() + F.relu(conv(F.interpolate(x, scale_factor=2)))
        heat = self.out(x)
        weight = heat.flatten(2).softmax(-1).view_as(heat)
        H, W = heat.shape[-2:]
        x = (weight.sum(-2) * torch.arange(W)).sum(-1)
        y = (weight.sum(-1) * torch.arange(H)).sum(-1)
        return heat, torch.stack([x, y], -1)


def get_init_inputs():
    return [[], {"depth": 3, "width": 32, "joints": 17}]


def get_inputs():
    return [torch.rand(1, 3, 64, 64)]
