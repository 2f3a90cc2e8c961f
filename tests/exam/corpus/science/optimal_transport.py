# expect: model=Sinkhorn rule=class+get_inputs phase=forward breaks=0 exit=0
"""Sinkhorn's iterations in log space between two clouds of points, after a learned map."""

import math

import torch
from torch import nn


class Sinkhorn(nn.Module):
    def __init__(self, dim=3, epsilon=0.1, iterations=10):
        super().__init__()
        self.epsilon, self.iterations = epsilon, iterations
        self.map = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, dim))

    def forward(self, source, target):
        cost = torch.cdist(self.map(source), target).square() / self.epsilon
        n, m = cost.shape
        f, g = torch.zeros(n), torch.zeros(m)
        for _ in range(self.iterations):
            f = -torch.logsumexp(g - cost, 1) - math.log(n)
            g = -torch.logsumexp(f[:, None] - cost, 0) - math.log(m)
        plan = (f[:, None] + g - cost).exp()
        return (plan * cost).sum() * self.epsilon


def get_inputs():
    return torch.randn(30, 3), torch.randn(40, 3)
