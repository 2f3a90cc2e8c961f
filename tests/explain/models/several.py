"""Several models: to be chosen by name."""

import functools

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 8)
        self.decoder = nn.Linear(8, 4)

    def forward(self, x):
        return self.decoder(self.encoder(x))


small = Small()
large = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 4))
numbers = [1, 2]


def make():
    return nn.Linear(4, 4)


def scaled(x, by=2.0):
    return torch.tanh(x) * by


def nothing():
    return None


class Tools:
    model = nn.Linear(4, 2)


partial = functools.partial(scaled, by=3.0)


def get_inputs():
    return [torch.ones(2, 4)]
