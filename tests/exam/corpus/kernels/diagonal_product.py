# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""A diagonal matrix by a dense one, written as a product of two matrices."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, A, B):
        return torch.diag(A) @ B


M = 1024
N = 1024


def get_inputs():
    return [torch.rand(N), torch.rand(N, M)]


def get_init_inputs():
    return []
