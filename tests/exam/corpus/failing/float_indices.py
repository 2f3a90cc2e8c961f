# expect: model=- rule=- phase=- breaks=- exit=4 says="Expected tensor for argument #1 'indices'|RuntimeError"
"""Token ids as floats."""

import torch
from torch import nn


class FloatIndices(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, ids):
        return self.embed(ids).sum(1)  # here


def get_model():
    return FloatIndices()


def get_inputs():
    return torch.randn(2, 3)
