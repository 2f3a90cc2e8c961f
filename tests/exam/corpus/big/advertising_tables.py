# expect: model=AdModel rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Embedding tables of an advertising model: half a billion rows, 64 GB."""

import torch
from torch import nn


class AdModel(nn.Module):
    def __init__(self, rows=(200_000_000, 250_000_000, 50_000_000), dim=32):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(count, dim, mode="sum", device="meta") for count in rows)
        self.net = nn.Sequential(nn.Linear(len(rows) * dim, 256), nn.ReLU(), nn.Linear(256, 1))

    def forward(self, ids):
        return self.net(torch.cat([table(ids[:, i]) for i, table in enumerate(self.tables)], 1)).sigmoid()


def get_model():
    return AdModel()


def get_inputs():
    return torch.randint(0, 50_000_000, (256, 3, 5))
