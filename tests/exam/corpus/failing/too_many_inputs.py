# expect: model=- rule=- phase=- breaks=- exit=4 says="must be Tensor, not list"
"""Two inputs for a model of one, which so gets a list."""

import torch
from torch import nn


class OneInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x):
        return self.linear(x)  # here


def get_model():
    return OneInput()


def get_inputs():
    return [torch.randn(1, 5), torch.randn(1, 5)]
