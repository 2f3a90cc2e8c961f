# expect: model=PooledGraph rule=model-class+get_inputs phase=forward breaks=0 exit=0
"""A graph made coarser: the best half of the nodes is kept, with their part of the adjacency matrix."""

import torch
from torch import nn


class PooledGraph(nn.Module):
    def __init__(self, features=10, dim=20):
        super().__init__()
        self.convs = nn.ModuleList([nn.Linear(features, dim), nn.Linear(dim, dim)])
        self.scores = nn.ParameterList(nn.Parameter(torch.randn(dim)) for _ in range(2))
        self.out = nn.Linear(2 * dim, 3)

    def forward(self, x, adjacency):
        found = 0
        for conv, score in zip(self.convs, self.scores, strict=True):
            x = torch.relu(conv(adjacency @ x))
            value, index = (x @ score / score.norm()).topk(x.shape[0] // 2)
            x = x[index] * value.tanh()[:, None]
            adjacency = adjacency[index][:, index]
            found = found + torch.cat([x.mean(0), x.amax(0)])
        return self.out(found)


model = PooledGraph


def get_inputs():
    return torch.randn(32, 10), torch.rand(32, 32)
