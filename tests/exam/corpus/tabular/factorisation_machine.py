# expect: model=FactorisationMachine rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""All pairs of features by the square of the sum less the sum of squares."""

import torch
from torch import nn


class FactorisationMachine(nn.Module):
    def __init__(self, features=40, factors=8):
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.factors = nn.Parameter(torch.randn(features, factors) * 0.01)

    def forward(self, x):
        square_of_sum = (x @ self.factors).square()
        sum_of_squares = x.square() @ self.factors.square()
        return self.linear(x).squeeze(1) + 0.5 * (square_of_sum - sum_of_squares).sum(1)


def get_model():
    return FactorisationMachine()


def get_inputs():
    return torch.rand(64, 40)
