"""KernelBench's form: ``Model``, ``get_inputs()``, ``get_init_inputs()``."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class ModelNew(Model):
    pass


def get_inputs():
    return [torch.ones(4, 8)]


def get_init_inputs():
    return [8, 3]
