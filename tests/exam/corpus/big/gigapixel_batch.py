# expect: model=Model rule=Model+init+get_inputs phase=encode/vision breaks=0 exit=0
"""A benchmark's sizes: 12 GB of input images and as much again after every layer."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, c_in, c_out, kernel):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding="same")
        self.norm = nn.InstanceNorm2d(c_out)

    def forward(self, x):
        return torch.clamp(self.norm(self.conv(x)), -1, 1) / 2


def get_inputs():
    return [torch.rand(256, 3, 2048, 2048)]


def get_init_inputs():
    return [3, 8, 3]
