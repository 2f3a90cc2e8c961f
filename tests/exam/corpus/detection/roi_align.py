# expect: model=RoIHead rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Regions of interest cut out by sampling a feature map on a grid in each box."""

import torch
import torch.nn.functional as F
from torch import nn


class RoIHead(nn.Module):
    def __init__(self, size=7, classes=3):
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(3, 32, 3, 2, 1)
        self.fc = nn.Sequential(nn.Linear(32 * size * size, 64), nn.ReLU(), nn.Linear(64, classes + 4))

    def forward(self, image, boxes):
        features = self.conv(image)
        steps = (torch.arange(self.size) + 0.5) / self.size
        x = boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps
        y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps
        shape = (len(boxes), self.size, self.size)
        grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], -1) * 2 - 1
        cut = F.grid_sample(features.expand(len(boxes), -1, -1, -1), grid, align_corners=False)
        return self.fc(cut.flatten(1)).split([3, 4], 1)


def get_model():
    return RoIHead()


def get_inputs():
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.9]])
    return [torch.rand(1, 3, 80, 80), boxes]
