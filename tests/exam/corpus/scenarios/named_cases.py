# expect: model=Highway rule=cases scenarios=narrow,wide phase=forward,forward breaks=0 exit=0
"""Cases with names, each a dict."""

import torch
from torch import nn


class Highway(nn.Module):
    def __init__(self, size, layers=2):
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))
        self.bodies = nn.ModuleList(nn.Linear(size, size) for _ in range(layers))

    def forward(self, x):
        for gate, body in zip(self.gates, self.bodies, strict=True):
            open_ = gate(x).sigmoid()
            x = open_ * body(x).relu() + (1 - open_) * x
        return x


test_cases = [
    {"name": "narrow", "model": Highway, "init_args": (6,), "inputs": [torch.randn(2, 6)]},
    {"name": "wide", "model": Highway, "init_args": (48,), "inputs": [torch.randn(2, 48)]},
]
