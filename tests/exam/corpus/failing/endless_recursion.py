# expect: model=- rule=- phase=- breaks=- exit=4 says="RecursionError"
"""A forward that calls itself without an end."""

import torch
from torch import nn


class Endless(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self(self.linear(x))


def get_model():
    return Endless()


def get_inputs():
    return torch.randn(1, 3)
