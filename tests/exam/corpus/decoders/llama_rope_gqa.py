# expect: model=Decoder rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""A Llama: rotary positions, grouped keys, RMSNorm, SwiGLU."""

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Layer(nn.Module):
    def __init__(self, dim, heads, groups):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, dim // heads
        self.q, self.o = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k, self.v = (nn.Linear(dim, groups * self.size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(dim, 3 * dim, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * dim, dim, bias=False)
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        y = self.norm1(x)
        q = rotated(self.q(y).view(B, T, self.heads, -1).transpose(1, 2), cos, sin)
        k = rotated(self.k(y).view(B, T, self.groups, -1).transpose(1, 2), cos, sin)
        v = self.v(y).view(B, T, self.groups, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, vocabulary=512, dim=64, heads=4, groups=2, layers=4):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(Layer(dim, heads, groups) for _ in range(layers))
        self.norm, self.head = RMSNorm(dim), nn.Linear(dim, vocabulary, bias=False)
        self.register_buffer("inverse", 10_000.0 ** (-torch.arange(0, dim // heads, 2) / (dim // heads)))

    def forward(self, ids):
        angles = torch.arange(ids.shape[1])[:, None] * self.inverse
        angles = torch.cat([angles, angles], -1)
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return self.head(self.norm(x))


def get_model():
    return Decoder()


def get_inputs():
    return torch.randint(512, (1, 40))
