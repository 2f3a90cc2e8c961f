# expect: model=RecurrentFlow rule=get_model phase=encode/vision breaks=0 exit=0
"""Optical flow as RAFT finds it: all pairs are compared once, then a gated unit refines the flow in steps."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvGRU(nn.Module):
    def __init__(self, hidden, c_in):
        super().__init__()
        self.gates = nn.Conv2d(hidden + c_in, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv2d(hidden + c_in, hidden, 3, padding=1)

    def forward(self, h, x):
        z, r = self.gates(torch.cat([h, x], 1)).sigmoid().chunk(2, 1)
        q = torch.tanh(self.candidate(torch.cat([r * h, x], 1)))
        return (1 - z) * h + z * q


class RecurrentFlow(nn.Module):
    def __init__(self, dim=32, iterations=4):
        super().__init__()
        self.iterations = iterations
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, dim, 3, 4, 1))
        self.context = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, dim, 3, 4, 1))
        self.update = ConvGRU(dim, 9 + 2)
        self.flow = nn.Conv2d(dim, 2, 3, padding=1)

    def lookup(self, volume, where):
        B, H, W = where.shape[0], *where.shape[-2:]
        offset = torch.stack(torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="xy"), -1)
        place = where.permute(0, 2, 3, 1).reshape(B * H * W, 1, 1, 2) + offset
        grid = place / torch.tensor([W - 1, H - 1]) * 2 - 1
        return F.grid_sample(volume, grid, align_corners=True).view(B, H, W, 9).permute(0, 3, 1, 2)

    def forward(self, first, second):
        a, b = self.features(first), self.features(second)
        B, C, H, W = a.shape
        volume = torch.einsum("bcij,bckl->bijkl", a, b).reshape(B * H * W, 1, H, W) / C**0.5
        rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        start = torch.stack([columns, rows]).float().expand(B, -1, -1, -1)
        h, flow = torch.tanh(self.context(first)), torch.zeros_like(start)
        for _ in range(self.iterations):
            h = self.update(h, torch.cat([self.lookup(volume, start + flow), flow], 1))
            flow = flow + self.flow(h)
        return F.interpolate(flow, scale_factor=8, mode="bilinear") * 8


def get_model():
    return RecurrentFlow(), (torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
