# expect: model=Swish,Film,Rotary rule=cases scenarios=Swish,Film,Rotary phase=forward,forward,forward breaks=0 exit=0
"""Modules with a list of test cases: how each is made and called."""

import torch
from torch import nn


class Swish(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * (self.beta * x).sigmoid()


class Film(nn.Module):
    def __init__(self, condition, channels):
        super().__init__()
        self.project = nn.Linear(condition, 2 * channels)

    def forward(self, x, condition):
        scale, shift = self.project(condition)[:, :, None, None].chunk(2, 1)
        return x * (1 + scale) + shift


class Rotary(nn.Module):
    def __init__(self, size, base=10_000):
        super().__init__()
        self.register_buffer("inverse", base ** (-torch.arange(0, size, 2) / size))

    def forward(self, x):
        angle = torch.arange(x.shape[-2])[:, None] * self.inverse
        turn = torch.polar(torch.ones_like(angle), angle)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2)


TESTCASES = [
    (Swish, lambda: ([], {}), lambda: ([torch.rand([4, 4, 4])], {}), True),
    (
        Film,
        lambda: ([], {"condition": 6, "channels": 3}),
        lambda: ([torch.rand(2, 3, 8, 8), torch.rand(2, 6)], {}),
        True,
    ),
    (Rotary, lambda: ([8], {}), lambda: ([torch.rand([2, 5, 8])], {}), False),
]
