# expect: model=LongContext rule=class+get_inputs phase=prefill breaks=0 exit=0
"""Attention over 64 thousand tokens with the scores written out: one of them takes 64 GB."""

import torch
from torch import nn


class LongContext(nn.Module):
    def __init__(self, vocabulary=1000, dim=128, heads=4):
        super().__init__()
        self.heads = heads
        self.embed, self.qkv = nn.Embedding(vocabulary, dim), nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, vocabulary)

    def forward(self, ids):
        q, k, v = self.qkv(self.embed(ids)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


def get_inputs():
    return torch.randint(0, 1000, (1, 65_536))
