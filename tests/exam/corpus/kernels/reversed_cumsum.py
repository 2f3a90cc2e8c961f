# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""Sums from the end: flip, accumulate, flip."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return torch.cumsum(x.flip(self.dim), dim=self.dim).flip(self.dim)


def get_inputs():
    return [torch.rand(32768, 128)]


def get_init_inputs():
    return [1]
