# expect: model=CacheStep rule=get_model+get_inputs phase=decode breaks=0 exit=0
"""One token for 64 sequences of 32 thousand: the caches are larger than most machines' memory."""

import torch
import torch.nn.functional as F
from torch import nn


class CacheStep(nn.Module):
    def __init__(self, dim=1024, heads=8):
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(32_000, dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, 32_000)

    def forward(self, token, keys, values):
        x = self.embed(token)
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        y = F.scaled_dot_product_attention(q, keys, values)
        return self.out(y.transpose(1, 2).flatten(2)), keys, values


def get_model():
    return CacheStep()


def get_inputs():
    cache = (64, 8, 32_768, 128)
    return [torch.randint(0, 32_000, (64, 1)), torch.randn(cache), torch.randn(cache)]
