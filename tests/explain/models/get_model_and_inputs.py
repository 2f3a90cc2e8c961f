"""``get_model()`` and ``example_inputs``."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x, scale=None):
        x = self.linear(x).relu()
        return x if scale is None else x * scale


def get_model():
    return Net(8)


example_inputs = (torch.ones(2, 8), {"scale": torch.full((8,), 2.0)})
