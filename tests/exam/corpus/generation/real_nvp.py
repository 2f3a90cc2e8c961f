# expect: model=RealNVP rule=get_model+example_inputs phase=forward breaks=0 exit=0
"""A normalising flow of coupling layers: the density of tabular data."""

import math

import torch
from torch import nn


class Coupling(nn.Module):
    def __init__(self, dim, hidden, flipped):
        super().__init__()
        self.flipped, self.half = flipped, dim // 2
        self.net = nn.Sequential(nn.Linear(self.half, hidden), nn.ReLU(), nn.Linear(hidden, 2 * (dim - self.half)))

    def forward(self, x, log_det):
        if self.flipped:
            x = x.flip(-1)
        kept, changed = x[:, : self.half], x[:, self.half :]
        scale, shift = self.net(kept).chunk(2, -1)
        scale = torch.tanh(scale)
        return torch.cat([kept, changed * scale.exp() + shift], -1), log_det + scale.sum(-1)


class RealNVP(nn.Module):
    def __init__(self, dim=6, layers=6):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(dim, 64, bool(i % 2)) for i in range(layers))

    def forward(self, x):
        log_det = x.new_zeros(x.shape[0])
        for layer in self.layers:
            x, log_det = layer(x, log_det)
        prior = -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)
        return prior + log_det


def get_model():
    return RealNVP()


def example_inputs():
    return (torch.randn(32, 6),)
