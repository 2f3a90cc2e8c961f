# expect: model=SetAbstraction rule=model+get_inputs phase=forward breaks=0 exit=0
"""PointNet++: furthest points are picked one by one, each gathers its neighbours."""

import torch
from torch import nn


class SetAbstraction(nn.Module):
    def __init__(self, centres=16, neighbours=8):
        super().__init__()
        self.centres, self.neighbours = centres, neighbours
        self.mlp = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64))

    def sample(self, points):
        B, N, _ = points.shape
        distance = torch.full((B, N), float("inf"))
        last = torch.zeros(B, dtype=torch.long)
        chosen = []
        for _ in range(self.centres):
            chosen.append(last)
            here = points.gather(1, last[:, None, None].expand(-1, 1, 3))
            distance = torch.minimum(distance, (points - here).square().sum(-1))
            last = distance.argmax(-1)
        return torch.stack(chosen, 1)

    def forward(self, points):
        index = self.sample(points)
        centres = points.gather(1, index[..., None].expand(-1, -1, 3))
        near = torch.cdist(centres, points).topk(self.neighbours, largest=False).indices
        batch = torch.arange(points.shape[0])[:, None, None]
        return self.mlp(points[batch, near] - centres[:, :, None]).amax(2)


model = SetAbstraction()


def get_inputs():
    return torch.rand(2, 128, 3)
