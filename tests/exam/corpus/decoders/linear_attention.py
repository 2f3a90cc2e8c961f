# expect: model=LinearDecoder rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""Causal linear attention: running sums of keys times values, written as a cumulative sum over tokens."""

import torch
import torch.nn.functional as F
from torch import nn


class LinearDecoder(nn.Module):
    def __init__(self, vocabulary=200, dim=32, heads=2):
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = (k[..., :, None] * v[..., None, :]).cumsum(1)
        norm = (q * k.cumsum(1)).sum(-1, keepdim=True)
        y = torch.einsum("bthd,bthde->bthe", q, state) / norm
        return self.head(x + self.out(y.flatten(2)))


def get_model():
    return LinearDecoder()


def get_inputs():
    return torch.randint(200, (2, 24))
