# expect: model=ResidualMLP rule=class+get_inputs phase=forward breaks=0 exit=0
"""An abstract base that cannot be constructed, and the one class that completes it."""

from abc import ABC, abstractmethod

import torch
from torch import nn


class Regressor(nn.Module, ABC):
    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    @abstractmethod
    def body(self, x):
        """What it computes."""

    def forward(self, x):
        return self.body(x * self.scale)


class ResidualMLP(Regressor):
    def __init__(self, features=14):
        super().__init__(features)
        self.inner, self.outer = nn.Linear(features, 30), nn.Linear(30, features)

    def body(self, x):
        return x + self.outer(torch.relu(self.inner(x)))


def get_inputs():
    return torch.randn(5, 14)
