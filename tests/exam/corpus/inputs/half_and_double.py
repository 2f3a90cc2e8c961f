# expect: model=MixedTypes rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""bfloat16 features, a double scale and a 0-d count; sums are in double."""

import torch
from torch import nn


class MixedTypes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 8, dtype=torch.bfloat16)
        self.scale = nn.Parameter(torch.ones(8, dtype=torch.float64))

    def forward(self, features, count):
        return (self.linear(features).double() * self.scale).sum(0) / count


def get_model():
    return MixedTypes()


def get_inputs():
    return torch.randn(6, 32, dtype=torch.bfloat16), torch.tensor(6)
