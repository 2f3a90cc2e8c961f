# expect: model=Model rule=Model+init+get_inputs phase=encode/vision breaks=0 exit=0
"""Convolution, instance norm, and a division that could be folded."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, divide_by):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.instance_norm = nn.InstanceNorm2d(out_channels)
        self.divide_by = divide_by

    def forward(self, x):
        return self.instance_norm(self.conv(x)) / self.divide_by


def get_inputs():
    return [torch.rand(64, 16, 64, 64)]


def get_init_inputs():
    return [16, 32, 3, 2.0]
