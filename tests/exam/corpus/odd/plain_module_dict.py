# expect: model=Router rule=model+get_example_inputs phase=forward breaks=0 exit=0
"""Branches by name: a word among the inputs says which part runs."""

import torch
from torch import nn


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict(
            {"small": nn.Linear(9, 2), "large": nn.Sequential(nn.Linear(9, 90), nn.Linear(90, 2))}
        )

    def forward(self, x, which="small"):
        return self.parts[which](x).tanh()


model = Router()


def get_example_inputs():
    return {"x": torch.randn(4, 9), "which": "large"}
