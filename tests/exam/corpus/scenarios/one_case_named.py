# expect: attr=Gather model=Gather rule=cases phase=forward breaks=0 exit=0
"""Of several cases, the command names one, whose class needs arguments."""

import torch
from torch import nn


class Gather(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, 5))

    def forward(self, index):
        return self.table.index_select(0, index).prod(0)


class Spread(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x.new_zeros(self.size).scatter(0, torch.arange(x.shape[0]) * 2, x)


TESTCASES = [
    (Gather, lambda: ([9], {}), lambda: ([torch.tensor([1, 4, 4])], {}), True),
    (Spread, lambda: ([12], {}), lambda: ([torch.rand(5)], {}), True),
]
