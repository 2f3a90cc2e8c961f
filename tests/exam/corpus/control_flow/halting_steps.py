# expect: model=- rule=- phase=- breaks=- exit=4 says="Data-dependent branching"
"""Adaptive computation time: steps until every example has halted, at most ten."""

import torch
from torch import nn


class Ponder(nn.Module):
    def __init__(self, dim=20, most=10):
        super().__init__()
        self.most = most
        self.cell, self.halt = nn.GRUCell(dim, dim), nn.Linear(dim, 1)

    def forward(self, x):
        h = torch.zeros_like(x)
        left, total = torch.ones(x.shape[0], 1), torch.zeros_like(x)
        for _ in range(self.most):
            h = self.cell(x, h)
            taken = torch.minimum(left, self.halt(h).sigmoid())
            total, left = total + taken * h, left - taken
            if left.max() < 0.05:  # here
                break
        return total + left * h


def get_inputs():
    return [torch.randn(3, 20)]
