# expect: model=MinimalGRU rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""minGRU: gates that do not see the state, so the recurrence is a scan in logarithms."""

import torch
import torch.nn.functional as F
from torch import nn


class MinimalGRU(nn.Module):
    def __init__(self, features, hidden):
        super().__init__()
        self.gate, self.candidate = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, readings):
        k = self.gate(readings)
        log_keep, log_take = -F.softplus(k), -F.softplus(-k)
        candidate = self.candidate(readings)
        log_value = torch.where(candidate >= 0, (F.relu(candidate) + 0.5).log(), -F.softplus(-candidate))
        total = log_keep.cumsum(1)
        h = (total + (log_take + log_value - total).logcumsumexp(1)).exp()
        return self.out(h[:, -1])


Model = MinimalGRU


def get_inputs():
    return [torch.randn(4, 64)[..., None].expand(-1, -1, 6).contiguous()]


def get_init_inputs():
    return [6, 24]
