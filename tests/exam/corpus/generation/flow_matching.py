# expect: model=Velocity rule=instance+x,t phase=forward breaks=0 exit=0
"""The velocity field of flow matching on points of a plane."""

import torch
from torch import nn


class Velocity(nn.Module):
    def __init__(self, hidden=128):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 2)
        )

    def forward(self, x, t):
        return self.net(torch.cat([x, t.expand(x.shape[0], 1)], -1))


field = Velocity()
x, t = torch.randn(256, 2), torch.tensor([[0.3]])
