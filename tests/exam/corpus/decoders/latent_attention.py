# expect: model=Model rule=Model+init+get_inputs phase=prefill breaks=0 exit=0
"""Multi-head latent attention: keys and values are unpacked from one narrow vector a token."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, vocabulary, dim, heads, latent):
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, dim)
        self.q_down, self.q_up = nn.Linear(dim, latent), nn.Linear(latent, dim)
        self.kv_down, self.kv_up = nn.Linear(dim, latent), nn.Linear(latent, 2 * dim)
        self.norm = nn.RMSNorm(latent)
        self.out = nn.Linear(dim, vocabulary)

    def forward(self, ids):
        x = self.embed(ids)
        B, T, C = x.shape
        q = self.q_up(self.q_down(x)).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = self.kv_up(self.norm(self.kv_down(x))).view(B, T, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * (C // self.heads) ** -0.5
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        y = torch.einsum("bhij,bhjd->bhid", scores.masked_fill(later, -1e9).softmax(-1), v)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


def get_inputs():
    return [torch.randint(0, 128, (2, 20))]


def get_init_inputs():
    return [128, 64, 4, 16]
