# expect: model=Leapfrog rule=class+get_inputs phase=forward breaks=0 exit=0
"""Hamiltonian dynamics of bodies that attract each other, by the leapfrog method; masses are learned."""

import torch
from torch import nn


class Leapfrog(nn.Module):
    def __init__(self, bodies=5, steps=6, dt=0.01):
        super().__init__()
        self.log_mass = nn.Parameter(torch.zeros(bodies))
        self.steps, self.dt = steps, dt

    def acceleration(self, q):
        delta = q[:, None] - q[:, :, None]
        inverse = (delta.square().sum(-1) + 1e-2).rsqrt() ** 3
        return torch.einsum("bij,bijk,j->bik", inverse, delta, self.log_mass.exp())

    def forward(self, q, p):
        p = p + 0.5 * self.dt * self.acceleration(q)
        for _ in range(self.steps):
            q = q + self.dt * p
            p = p + self.dt * self.acceleration(q)
        return q, p - 0.5 * self.dt * self.acceleration(q)


def get_inputs():
    return torch.randn(2, 5, 3), torch.zeros(2, 5, 3)
