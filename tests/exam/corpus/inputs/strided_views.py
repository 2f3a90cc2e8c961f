# expect: model=Strided rule=class+get_inputs phase=forward breaks=0 exit=0
"""Inputs that are views: transposed, expanded, every second element, all of one storage."""

import torch
from torch import nn


class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))

    def forward(self, turned, repeated, every_second):
        return (turned @ self.weight + repeated).cumsum(0)[:, ::2] * every_second


def get_inputs():
    whole = torch.randn(8, 10)
    return whole.T, whole[0, :6].expand(10, 6), whole[1, :6:2]
