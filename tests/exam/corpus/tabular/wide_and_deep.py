# expect: model=WideAndDeep rule=class+get_inputs phase=forward breaks=0 exit=0
"""A linear model on crossed features beside a deep one on embeddings, trained together."""

import torch
from torch import nn


class WideAndDeep(nn.Module):
    def __init__(self, wide=500, categories=(20, 30, 10), numbers=6):
        super().__init__()
        self.wide = nn.Embedding(wide, 1)
        self.deep = nn.ModuleList(nn.Embedding(size, 8) for size in categories)
        self.mlp = nn.Sequential(nn.Linear(8 * len(categories) + numbers, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, crossed, categories, numbers):
        deep = [embed(categories[:, i]) for i, embed in enumerate(self.deep)]
        return self.wide(crossed).sum((1, 2)) + self.mlp(torch.cat([*deep, numbers], 1)).squeeze(1)


def get_inputs():
    return {
        "crossed": torch.randint(500, (16, 4)),
        "categories": torch.randint(10, (16, 3)),
        "numbers": torch.randn(16, 6),
    }
