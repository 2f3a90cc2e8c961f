# expect: model=LatticeBoltzmann rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Flow on a lattice of nine velocities: collide towards equilibrium, stream by rolling. No weights but one."""

import torch
from torch import nn


class LatticeBoltzmann(nn.Module):
    def __init__(self, steps=4):
        super().__init__()
        self.steps = steps
        self.omega = nn.Parameter(torch.tensor(1.2))
        self.velocity = [(0, 0), (1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)]
        self.register_buffer("c", torch.tensor(self.velocity).float())
        self.register_buffer("w", torch.tensor([4 / 9] + [1 / 9] * 4 + [1 / 36] * 4))

    def forward(self, f):
        for _ in range(self.steps):
            density = f.sum(0)
            u = torch.einsum("vk,vxy->kxy", self.c, f) / density
            cu = 3 * torch.einsum("vk,kxy->vxy", self.c, u)
            equilibrium = self.w[:, None, None] * density * (1 + cu + cu**2 / 2 - 1.5 * u.square().sum(0))
            f = f + self.omega * (equilibrium - f)
            f = torch.stack([torch.roll(f[i], v, (0, 1)) for i, v in enumerate(self.velocity)])
        return f


def get_model():
    return LatticeBoltzmann()


def get_inputs():
    return torch.rand(9, 24, 16) + 0.1
