# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""A pool alone, with dilation."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, kernel_size: int, stride: int, padding: int, dilation: int):
        super().__init__()
        self.maxpool = nn.MaxPool2d(kernel_size, stride, padding, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maxpool(x)


def get_inputs():
    return [torch.rand(16, 32, 128, 128)]


def get_init_inputs():
    return [4, 1, 1, 2]
