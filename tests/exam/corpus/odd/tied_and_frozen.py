# expect: model=TiedAutoencoder rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Weights used twice, once transposed, and frozen ones."""

import torch
import torch.nn.functional as F
from torch import nn


class TiedAutoencoder(nn.Module):
    def __init__(self, size=60, code=12):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(code, size) * 0.1)
        self.out_bias = nn.Parameter(torch.zeros(size))
        self.whiten = nn.Linear(size, size).requires_grad_(False)

    def forward(self, x):
        code = F.linear(self.whiten(x), self.weight).relu()
        return F.linear(code, self.weight.T, self.out_bias), code


def get_model():
    return TiedAutoencoder()


def get_inputs():
    return torch.rand(9, 60)
