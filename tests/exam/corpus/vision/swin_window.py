# expect: model=SwinStage rule=class+example_inputs phase=encode/vision breaks=0 exit=0
"""Attention in shifted windows with a table of relative positions, as Swin has it."""

import torch
from torch import nn


def windows_of(x, size):
    B, H, W, C = x.shape
    return x.view(B, H // size, size, W // size, size, C).transpose(2, 3).reshape(-1, size * size, C)


def whole_of(windows, size, H, W):
    C = windows.shape[-1]
    x = windows.view(-1, H // size, W // size, size, size, C)
    return x.transpose(2, 3).reshape(-1, H, W, C)


class WindowAttention(nn.Module):
    def __init__(self, dim, size, heads):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        axis = torch.arange(size)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
        relative = grid[:, :, None] - grid[:, None, :] + size - 1
        self.register_buffer("index", relative[0] * (2 * size - 1) + relative[1])

    def forward(self, x, mask=None):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = scores + self.table[self.index].permute(2, 0, 1)
        if mask is not None:
            scores = (scores.view(-1, mask.shape[0], self.heads, N, N) + mask[:, None]).view(-1, self.heads, N, N)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C))


class SwinStage(nn.Module):
    def __init__(self, dim=48, size=4, side=16, heads=3, depth=2):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth))
        self.attention = nn.ModuleList(WindowAttention(dim, size, heads) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) for _ in range(depth)
        )
        self.size = size
        label = torch.zeros(1, side, side, 1)
        cuts = (slice(0, -size), slice(-size, -size // 2), slice(-size // 2, None))
        for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
            label[:, rows, columns] = number
        label = windows_of(label, size).squeeze(-1)
        self.register_buffer("mask", (label[:, None] != label[:, :, None]) * -100.0)

    def forward(self, images):
        x = self.embed(images).permute(0, 2, 3, 1)
        _, H, W, _ = x.shape
        for i, (attend, mlp) in enumerate(zip(self.attention, self.mlps, strict=True)):
            shift = self.size // 2 if i % 2 else 0
            y = torch.roll(self.norms[2 * i](x), (-shift, -shift), (1, 2)) if shift else self.norms[2 * i](x)
            y = whole_of(attend(windows_of(y, self.size), self.mask if shift else None), self.size, H, W)
            x = x + (torch.roll(y, (shift, shift), (1, 2)) if shift else y)
            x = x + mlp(self.norms[2 * i + 1](x))
        return x.mean((1, 2))


example_inputs = [torch.rand(1, 3, 64, 64)]
