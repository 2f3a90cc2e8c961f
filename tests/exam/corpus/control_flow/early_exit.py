# expect: model=- rule=- phase=- breaks=- exit=4 says="Data-dependent branching"
"""A network that stops as soon as one of its heads is sure of all answers."""

import torch
from torch import nn


class EarlyExit(nn.Module):
    def __init__(self, features=16, width=32, classes=3, depth=3, sure=0.99):
        super().__init__()
        self.sure = sure
        sizes = [features] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(depth))

    def forward(self, x):
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.relu(layer(x))
            answer = head(x).softmax(-1)
            if answer.amax(-1).min() > self.sure:  # here
                return answer
        return answer


def get_model():
    return EarlyExit()


def get_inputs():
    return torch.randn(4, 16)
