# expect: model=Quantised rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A straight-through estimator as an autograd.Function, around fake quantisation."""

import torch
from torch import nn


class RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Quantised(nn.Module):
    def __init__(self, bits=4):
        super().__init__()
        self.levels = 2**bits - 1
        self.linear = nn.Linear(22, 11)
        self.range = nn.Parameter(torch.tensor(3.0))

    def quantise(self, x):
        step = 2 * self.range / self.levels
        return RoundThrough.apply(x.clamp(-self.range, self.range) / step) * step

    def forward(self, x):
        return nn.functional.linear(self.quantise(x), self.quantise(self.linear.weight), self.linear.bias)


def get_model():
    return Quantised()


def get_inputs():
    return torch.randn(3, 22)
