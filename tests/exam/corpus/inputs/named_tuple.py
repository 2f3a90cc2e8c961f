# expect: model=StateUpdate rule=class+get_inputs phase=forward breaks=0 exit=0
"""A named tuple goes in and one comes out."""

from typing import NamedTuple

import torch
from torch import nn


class State(NamedTuple):
    mean: torch.Tensor
    log_variance: torch.Tensor


class StateUpdate(nn.Module):
    def __init__(self, dim=7):
        super().__init__()
        self.gain, self.noise = nn.Linear(dim, dim), nn.Parameter(torch.zeros(dim))

    def forward(self, state, seen):
        change = torch.tanh(self.gain(seen - state.mean))
        return State(state.mean + change, torch.logaddexp(state.log_variance, self.noise) - change.abs())


def get_inputs():
    return [State(torch.zeros(2, 7), torch.zeros(2, 7)), torch.randn(2, 7)]
