# expect: model=GraphSAGE rule=class+get_inputs phase=forward breaks=0 exit=0
"""GraphSAGE with max pooling over sampled neighbours, in fixed-size tables."""

import torch
import torch.nn.functional as F
from torch import nn


class GraphSAGE(nn.Module):
    def __init__(self, features=24, hidden=32, out=16):
        super().__init__()
        self.pool = nn.ModuleList([nn.Linear(features, hidden), nn.Linear(hidden, hidden)])
        self.merge = nn.ModuleList([nn.Linear(features + hidden, hidden), nn.Linear(2 * hidden, out)])

    def forward(self, features, neighbours):
        h = features
        for pool, merge in zip(self.pool, self.merge, strict=True):
            seen = F.relu(pool(h))[neighbours].amax(1)
            h = F.normalize(F.relu(merge(torch.cat([h, seen], -1))))
        return h


def get_inputs():
    return torch.randn(40, 24), torch.randint(40, (40, 5))
