# expect: model=MMoE rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Several tasks share experts, each through a gate of its own."""

import torch
from torch import nn


class MMoE(nn.Module):
    def __init__(self, features=20, experts=4, tasks=("click", "buy", "rate")):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(features, 32), nn.ReLU()) for _ in range(experts))
        self.gates = nn.ModuleDict({task: nn.Linear(features, experts) for task in tasks})
        self.towers = nn.ModuleDict({task: nn.Linear(32, 1) for task in tasks})

    def forward(self, x):
        found = torch.stack([expert(x) for expert in self.experts], 1)
        answer = {}
        for task, gate in self.gates.items():
            mixed = (gate(x).softmax(-1)[..., None] * found).sum(1)
            answer[task] = self.towers[task](mixed).squeeze(-1)
        return answer


def get_model():
    return MMoE()


def get_inputs():
    return torch.randn(12, 20)
