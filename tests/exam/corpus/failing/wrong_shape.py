# expect: model=- rule=- phase=- breaks=- exit=4 says="RuntimeError"
"""Sizes that do not fit; eager fails as well."""

import torch
from torch import nn


class WrongShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(15, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.second(x)  # here


def get_model():
    return WrongShape()


def get_inputs():
    return torch.randn(2, 8)
