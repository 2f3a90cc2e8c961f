# expect: model=Sampler rule=get_model phase=forward breaks=0 exit=0
"""A whole sampler in one forward: eight steps of denoising by a network on vectors."""

import torch
from torch import nn


class Denoiser(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inp = nn.Linear(dim + 1, 128)
        self.hidden = nn.Linear(128, 128)
        self.out = nn.Linear(128, dim)

    def forward(self, x, sigma):
        h = torch.cat([x, sigma.log().expand(x.shape[0], 1)], 1)
        return self.out(torch.tanh(self.hidden(torch.tanh(self.inp(h)))))


class Sampler(nn.Module):
    def __init__(self, dim=20, steps=8):
        super().__init__()
        self.denoiser = Denoiser(dim)
        self.register_buffer("sigmas", torch.linspace(10, 0.1, steps + 1))

    def forward(self, noise):
        x = noise * self.sigmas[0]
        for now, after in zip(self.sigmas[:-1], self.sigmas[1:], strict=True):
            slope = (x - self.denoiser(x, now)) / now
            trial = x + slope * (after - now)
            other = (trial - self.denoiser(trial, after)) / after
            x = x + 0.5 * (slope + other) * (after - now)
        return x


def get_model():
    return Sampler(), torch.randn(4, 20)
