# expect: model=PointNet rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""PointNet: a set of points through one MLP, pooled to what the shape is."""

import torch
from torch import nn


class PointNet(nn.Module):
    def __init__(self, classes=40):
        super().__init__()
        self.align = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU())
        self.rotation = nn.Linear(64, 9)
        self.local = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes))

    def forward(self, points):
        turn = self.rotation(self.align(points).amax(1)).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.local(points @ turn).amax(1))


def get_model():
    return PointNet()


def get_inputs():
    return [torch.randn(4, 256, 3)]
