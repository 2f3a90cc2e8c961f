# expect: model=- rule=- phase=- breaks=- exit=3 says="more than one model" lists=teacher,student
"""Two networks at module level, neither a part of the other."""

import torch
from torch import nn


def network(width):
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 2))


teacher, student = network(100), network(10)
x = torch.randn(3, 10)
