# expect: model=- rule=- phase=- breaks=- exit=4 says="ValueError: heads"
"""A constructor that checks its arguments, and defaults that do not pass."""

import torch
from torch import nn


class Checked(nn.Module):
    def __init__(self, dim=30, heads=4):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: {dim} is no multiple of {heads}")  # here
        self.attention = nn.MultiheadAttention(dim, heads)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def get_inputs():
    return torch.randn(5, 1, 30)
