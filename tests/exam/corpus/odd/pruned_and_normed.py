# expect: model=Sequential rule=factory+X phase=forward breaks=0 exit=0
"""Parametrisations: an orthogonal weight, and one under a mask of what was pruned."""

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune


def make_model():
    first = parametrizations.orthogonal(nn.Linear(15, 15), orthogonal_map="cayley")
    second = nn.Linear(15, 5)
    prune.random_unstructured(second, "weight", 0.5)
    return nn.Sequential(first, nn.SELU(), second)


X = torch.randn(7, 15)
