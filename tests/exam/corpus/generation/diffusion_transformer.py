# expect: model=DiT rule=get_model phase=encode/vision breaks=0 exit=0
"""A diffusion transformer: patches of latents, blocks modulated by time and class (adaptive LayerNorm)."""

import torch
import torch.nn.functional as F
from torch import nn


def modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def attend(self, x):
        B, N, _ = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)
        x = x + gate1[:, None] * self.attend(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class DiT(nn.Module):
    def __init__(self, size=16, patch=2, channels=4, dim=96, depth=3, heads=6, classes=10):
        super().__init__()
        self.patch, self.grid = patch, size // patch
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.positions = nn.Parameter(torch.zeros(1, self.grid**2, dim))
        self.time = nn.Sequential(nn.Linear(1, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(classes + 1, dim)
        self.blocks = nn.ModuleList(DiTBlock(dim, heads) for _ in range(depth))
        self.final = nn.Linear(dim, patch * patch * channels)

    def forward(self, latent, t, label):
        x = self.embed(latent).flatten(2).mT + self.positions
        c = self.time(t[:, None]) + self.label(label)
        for block in self.blocks:
            x = block(x, c)
        x = self.final(x).view(-1, self.grid, self.grid, self.patch, self.patch, latent.shape[1])
        return x.permute(0, 5, 1, 3, 2, 4).reshape(latent.shape)


def get_model():
    return DiT(), [torch.randn(2, 4, 16, 16), torch.rand(2), torch.tensor([1, 10])]
