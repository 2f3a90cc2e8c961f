# expect: model=EmptyBatch rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A batch without examples, as the last shard of a data set may be."""

import torch
from torch import nn


class EmptyBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 11), nn.Tanh(), nn.Linear(11, 2))

    def forward(self, x):
        return self.net(x)


def get_model():
    return EmptyBatch()


def get_inputs():
    return torch.zeros(0, 5)
