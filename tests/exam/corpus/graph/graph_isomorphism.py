# expect: model=GIN rule=get_model phase=forward breaks=0 exit=0
"""GIN on a dense adjacency matrix, with a learned weight for the node itself."""

import torch
from torch import nn


class GIN(nn.Module):
    def __init__(self, features=8, hidden=24, layers=3):
        super().__init__()
        self.epsilon = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(layers))
        sizes = [features] + [hidden] * layers
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(a, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, b))
            for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.out = nn.Linear(sum(sizes), 2)

    def forward(self, x, adjacency):
        sums = [x.sum(0)]
        for epsilon, mlp in zip(self.epsilon, self.mlps, strict=True):
            x = mlp((1 + epsilon) * x + adjacency @ x)
            sums.append(x.sum(0))
        return self.out(torch.cat(sums))


def get_model():
    return GIN(), (torch.randn(25, 8), (torch.rand(25, 25) < 0.2).float())
