"""``get_init_inputs()`` and ``get_inputs()`` as ``[args, kwargs]``; the class has a name of its own."""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, heads: int, *, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x, need_weights):
        return self.attention(x, x, x, need_weights=need_weights)


def get_init_inputs():
    return [[2], {"width": 8}]


def get_inputs():
    return [[torch.ones(1, 5, 8)], {"need_weights": False}]
