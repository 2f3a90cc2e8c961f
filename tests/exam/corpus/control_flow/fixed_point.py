# expect: model=Equilibrium rule=get_model+get_inputs phase=forward breaks=1 exit=0
"""A deep equilibrium layer: iterate until nothing moves."""

import torch
from torch import nn


class Equilibrium(nn.Module):
    def __init__(self, dim=16, tolerance=1e-3):
        super().__init__()
        self.tolerance = tolerance
        self.inner, self.outer = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        nn.init.orthogonal_(self.inner.weight, 0.5)

    def forward(self, x):
        drive = self.outer(x)
        z = torch.zeros_like(x)
        after = torch.tanh(self.inner(z) + drive)
        while (after - z).abs().max() > self.tolerance:
            z, after = after, torch.tanh(self.inner(after) + drive)
        return after


def get_model():
    return Equilibrium()


def get_inputs():
    return torch.randn(5, 16)
