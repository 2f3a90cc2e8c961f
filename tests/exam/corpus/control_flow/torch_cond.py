# expect: model=Gated rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""The branch as torch.cond: both ways are in one graph."""

import torch
from torch import nn


class Gated(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.gate, self.long, self.short = nn.Linear(dim, 1), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        def thorough(y):
            return torch.tanh(self.long(torch.tanh(self.long(y))))

        def quick(y):
            return self.short(y)

        return torch.cond(self.gate(x).mean() > 0, thorough, quick, (x,))


def get_model():
    return Gated()


def get_inputs():
    return (torch.randn(2, 12),)
