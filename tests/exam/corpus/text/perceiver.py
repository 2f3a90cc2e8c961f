# expect: model=Perceiver rule=class+get_inputs phase=encode/text breaks=0 exit=0
"""Perceiver: a few learned latents read a long input, then think among themselves."""

import torch
import torch.nn.functional as F
from torch import nn


class Attend(nn.Module):
    def __init__(self, dim, heads=4):
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_kv = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x, context):
        q = self.q(self.norm_q(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.norm_kv(context)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Perceiver(nn.Module):
    def __init__(self, vocabulary=262, dim=64, latents=16, depth=3):
        super().__init__()
        self.bytes = nn.Embedding(vocabulary, dim)
        self.places = nn.Parameter(torch.randn(256, dim) * 0.02)
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.read = Attend(dim)
        self.think = nn.ModuleList(Attend(dim) for _ in range(depth))
        self.out = nn.Linear(dim, 5)

    def forward(self, text):
        context = self.bytes(text) + self.places[: text.shape[1]]
        x = self.read(self.latents.expand(text.shape[0], -1, -1), context)
        for block in self.think:
            x = block(x, x)
        return self.out(x.mean(1))


def get_inputs():
    return torch.randint(262, (2, 200))
