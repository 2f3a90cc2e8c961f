# expect: model=- rule=- phase=- breaks=- exit=4 says="NotImplementedError: streaming"
"""Not written yet."""

import torch
from torch import nn


class Unfinished(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = self.linear(x)
        raise NotImplementedError("streaming comes in the next release")  # here


def get_model():
    return Unfinished()


def get_inputs():
    return torch.randn(2, 4)
