# expect: model=NeuralODE rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A neural differential equation, integrated by Runge and Kutta's method of order four in fixed steps."""

import torch
from torch import nn


class Field(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim + 1, hidden), nn.Tanh(), nn.Linear(hidden, dim))

    def forward(self, t, y):
        return self.net(torch.cat([y, t.expand(y.shape[0], 1)], -1))


class NeuralODE(nn.Module):
    def __init__(self, dim=4, hidden=32, steps=5):
        super().__init__()
        self.field, self.steps = Field(dim, hidden), steps

    def forward(self, y):
        h = 1 / self.steps
        for step in range(self.steps):
            t = torch.tensor(step * h)
            k1 = self.field(t, y)
            k2 = self.field(t + h / 2, y + h / 2 * k1)
            k3 = self.field(t + h / 2, y + h / 2 * k2)
            k4 = self.field(t + h, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y


def get_model():
    return NeuralODE()


def get_inputs():
    return torch.randn(16, 4)
