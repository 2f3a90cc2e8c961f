# expect: model=- rule=- phase=- breaks=- exit=4 says="Dynamic shape operator"
"""Experts that compute only the tokens sent to them: how many these are depends on the values."""

import torch
from torch import nn


class RoutedExperts(nn.Module):
    def __init__(self, dim=16, experts=3):
        super().__init__()
        self.router = nn.Linear(dim, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) for _ in range(experts)
        )

    def forward(self, tokens):
        weight, choice = self.router(tokens).softmax(-1).max(-1)
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows = torch.nonzero(choice == index).squeeze(1)  # here
            out = out.index_add(0, rows, expert(tokens[rows]) * weight[rows, None])
        return out


def get_model():
    return RoutedExperts()


def get_inputs():
    return [torch.randn(20, 16)]
