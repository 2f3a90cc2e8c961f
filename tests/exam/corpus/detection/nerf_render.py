# expect: model=NeRF rule=get_model+rays phase=forward breaks=0 exit=0
"""A radiance field: samples on rays, positional encoding, an MLP, and the integral of colour."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def encoded(x, octaves):
    angles = x[..., None] * (2.0 ** torch.arange(octaves) * math.pi)
    return torch.cat([x, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)


class NeRF(nn.Module):
    def __init__(self, width=64, octaves=6):
        super().__init__()
        self.octaves = octaves
        size = 3 + 6 * octaves
        self.first = nn.Linear(size, width)
        self.middle = nn.ModuleList(nn.Linear(width + (size if i == 1 else 0), width) for i in range(3))
        self.density, self.colour = nn.Linear(width, 1), nn.Linear(width + 3, 3)

    def forward(self, rays):
        origin, direction = rays.split(3, -1)
        depth = torch.linspace(1, 4, 24)
        points = origin[:, None] + depth[:, None] * direction[:, None]
        features = encoded(points, self.octaves)
        h = F.relu(self.first(features))
        for i, layer in enumerate(self.middle):
            h = F.relu(layer(torch.cat([h, features], -1) if i == 1 else h))
        sigma = F.softplus(self.density(h)).squeeze(-1)
        colour = self.colour(torch.cat([h, direction[:, None].expand(-1, 24, -1)], -1)).sigmoid()
        alpha = 1 - torch.exp(-sigma * 0.125)
        passed = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], -1), -1)
        weight = alpha * passed
        return (weight[..., None] * colour).sum(1), (weight * depth).sum(1)


def get_model():
    return NeRF()


rays = torch.rand(64, 6)
