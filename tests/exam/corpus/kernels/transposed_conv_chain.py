# expect: model=Model rule=Model+init+get_inputs phase=encode/vision breaks=0 exit=0
"""A transposed convolution, batch norm, tanh, pool and group norm in a row."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, groups, num_groups):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.batch_norm = nn.BatchNorm2d(out_channels)
        self.max_pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.group_norm = nn.GroupNorm(num_groups=num_groups, num_channels=out_channels)

    def forward(self, x):
        x = self.batch_norm(self.conv_transpose(x))
        return self.group_norm(self.max_pool(torch.tanh(x)))


def get_inputs():
    return [torch.rand(32, 64, 32, 32)]


def get_init_inputs():
    return [64, 128, 5, 1, 1, 8, 8]
