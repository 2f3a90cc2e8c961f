# expect: model=DLRM rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""DLRM: dense features and embedded categories, all pairs of which are multiplied."""

import torch
from torch import nn


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)


class DLRM(nn.Module):
    def __init__(self, dense=13, tables=(1000, 50, 2000, 7), dim=16):
        super().__init__()
        self.bottom = mlp(dense, 64, dim)
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in tables)
        pairs = len(tables) * (len(tables) + 1) // 2
        self.top = nn.Sequential(mlp(dim + pairs, 64, 32), nn.Linear(32, 1))
        rows, columns = torch.tril_indices(len(tables) + 1, len(tables) + 1, -1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, dense, categories):
        d = self.bottom(dense)
        features = torch.stack([d, *(table(categories[:, i]) for i, table in enumerate(self.tables))], 1)
        products = (features @ features.mT)[:, self.rows, self.columns]
        return self.top(torch.cat([d, products], 1)).sigmoid()


def get_model():
    return DLRM()


def get_inputs():
    return torch.rand(32, 13), torch.randint(7, (32, 4))
