# expect: model=SchNet rule=model+get_inputs phase=forward breaks=0 exit=0
"""SchNet: atoms interact through filters made from distances; the sum of atoms is the energy."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def shifted_softplus(x):
    return F.softplus(x) - math.log(2)


class Interaction(nn.Module):
    def __init__(self, dim, basis):
        super().__init__()
        self.filter1, self.filter2 = nn.Linear(basis, dim), nn.Linear(dim, dim)
        self.inp, self.out1, self.out2 = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x, basis, cutoff):
        w = self.filter2(shifted_softplus(self.filter1(basis))) * cutoff[..., None]
        y = torch.einsum("ijd,jd->id", w, self.inp(x))
        return x + self.out2(shifted_softplus(self.out1(y)))


class SchNet(nn.Module):
    def __init__(self, dim=32, gaussians=20, layers=3, reach=5.0):
        super().__init__()
        self.reach = reach
        self.atoms = nn.Embedding(20, dim)
        self.register_buffer("centres", torch.linspace(0, reach, gaussians))
        self.layers = nn.ModuleList(Interaction(dim, gaussians) for _ in range(layers))
        self.energy = nn.Sequential(nn.Linear(dim, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, numbers, positions):
        difference = positions[:, None] - positions[None]
        distance = (difference.square().sum(-1) + 1e-12).sqrt()
        basis = (-10 * (distance[..., None] - self.centres) ** 2).exp()
        cutoff = 0.5 * (torch.cos(distance * math.pi / self.reach) + 1) * (distance < self.reach)
        cutoff = cutoff * (1 - torch.eye(len(numbers)))
        x = self.atoms(numbers)
        for layer in self.layers:
            x = layer(x, basis, cutoff)
        return self.energy(x).sum()


model = SchNet()


def get_inputs():
    return torch.randint(1, 20, (12,)), torch.randn(12, 3)
