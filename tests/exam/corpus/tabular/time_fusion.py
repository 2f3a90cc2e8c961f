# expect: model=GatedResidualForecast rule=get_model phase=forward breaks=0 exit=0
"""Parts of a temporal fusion transformer without its recurrence: variable selection by gated residual networks."""

import torch
import torch.nn.functional as F
from torch import nn


class GatedResidual(nn.Module):
    def __init__(self, c_in, dim, c_out):
        super().__init__()
        self.inner, self.outer = nn.Linear(c_in, dim), nn.Linear(dim, 2 * c_out)
        self.skip = nn.Linear(c_in, c_out) if c_in != c_out else nn.Identity()
        self.norm = nn.LayerNorm(c_out)

    def forward(self, x):
        return self.norm(self.skip(x) + F.glu(self.outer(F.elu(self.inner(x)))))


class GatedResidualForecast(nn.Module):
    def __init__(self, variables=5, dim=16, horizon=12, quantiles=3):
        super().__init__()
        self.each = nn.ModuleList(GatedResidual(1, dim, dim) for _ in range(variables))
        self.choose = GatedResidual(variables, dim, variables)
        self.out = nn.Linear(dim, horizon * quantiles)
        self.horizon = horizon

    def forward(self, series):
        weight = self.choose(series).softmax(-1)[..., None]
        each = torch.stack([net(series[..., i : i + 1]) for i, net in enumerate(self.each)], -2)
        x = (weight * each).sum(-2).mean(1)
        return self.out(x).unflatten(-1, (self.horizon, -1)).sort(-1).values


def get_model():
    return GatedResidualForecast(), torch.randn(4, 30, 5)
