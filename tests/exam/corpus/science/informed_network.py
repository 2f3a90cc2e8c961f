# expect: model=HeatResidual rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A physics-informed network for the heat equation; the residual by finite differences of the network itself."""

import torch
from torch import nn


class HeatResidual(nn.Module):
    def __init__(self, width=32, diffusivity=0.1, h=1e-2):
        super().__init__()
        self.h, self.diffusivity = h, diffusivity
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def u(self, x, t):
        return self.net(torch.stack([x, t], -1)).squeeze(-1)

    def forward(self, x, t):
        h = self.h
        u = self.u(x, t)
        u_t = (self.u(x, t + h) - self.u(x, t - h)) / (2 * h)
        u_xx = (self.u(x + h, t) - 2 * u + self.u(x - h, t)) / h**2
        return u, (u_t - self.diffusivity * u_xx).square().mean()


def get_model():
    return HeatResidual()


def get_inputs():
    return torch.rand(200), torch.rand(200)
