# expect: model=ForegroundHead rule=get_model+get_inputs phase=encode/vision breaks=1 exit=0
"""A second stage that looks only at the positions the first one found worth it."""

import torch
from torch import nn


class ForegroundHead(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.trunk, self.score = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 1, 1)
        self.head = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, image):
        features = torch.relu(self.trunk(image))
        chosen = self.score(features).squeeze(1) > 0
        return self.head(features.permute(0, 2, 3, 1)[chosen])


def get_model():
    return ForegroundHead()


def get_inputs():
    return torch.rand(1, 3, 16, 16)
