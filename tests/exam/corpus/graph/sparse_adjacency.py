# expect: model=SimpleGraph rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""SGC: features smoothed by a sparse matrix in coordinate form, which is made in forward, then one linear layer."""

import torch
from torch import nn


class SimpleGraph(nn.Module):
    def __init__(self, features=16, classes=4, hops=2):
        super().__init__()
        self.hops = hops
        self.linear = nn.Linear(features, classes)

    def forward(self, x, rows, columns, weights):
        for _ in range(self.hops):
            x = torch.zeros_like(x).scatter_add(0, rows[:, None].expand(-1, x.shape[1]), weights[:, None] * x[columns])
        return self.linear(x)


def get_model():
    return SimpleGraph()


def get_inputs():
    return torch.randn(15, 16), torch.randint(15, (40,)), torch.randint(15, (40,)), torch.rand(40)
