# expect: model=Model rule=Model+init+get_inputs phase=encode/vision breaks=0 exit=0
"""A volume: convolution, the least along depth, a softmax over channels."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, dim):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size)
        self.dim = dim

    def forward(self, x):
        x = self.conv(x)
        x = torch.min(x, dim=self.dim)[0]
        return torch.softmax(x, dim=1)


def get_inputs():
    return [torch.rand(16, 3, 24, 32, 32)]


def get_init_inputs():
    return [3, 24, 3, 2]
