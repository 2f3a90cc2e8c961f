# expect: model=Model rule=Model+init+get_inputs phase=encode breaks=0 exit=0
"""Attention on ready heads, nothing else."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, Q, K, V):
        return torch.nn.functional.scaled_dot_product_attention(Q, K, V)


def get_inputs():
    return [torch.rand(8, 8, 256, 64) for _ in range(3)]


def get_init_inputs():
    return []
