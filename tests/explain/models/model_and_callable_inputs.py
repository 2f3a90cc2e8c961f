"""``model`` and ``get_example_inputs()``, which gives keyword arguments."""

import torch
from torch import nn


class Net(nn.Module):
    def forward(self, x, y):
        return x @ y


model = torch.compile(Net())


def get_example_inputs():
    return {"y": torch.ones(3, 2), "x": torch.ones(2, 3)}
