# expect: model=CenterNet rule=class+get_inputs phase=encode/vision breaks=0 exit=0
"""Objects as points: a heat map, its local maxima, and the sizes there."""

import torch
import torch.nn.functional as F
from torch import nn


class CenterNet(nn.Module):
    def __init__(self, classes=4, top=20):
        super().__init__()
        self.top = top
        self.trunk = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.ReLU())
        self.heat = nn.Conv2d(48, classes, 1)
        self.size, self.offset = nn.Conv2d(48, 2, 1), nn.Conv2d(48, 2, 1)

    def forward(self, images):
        features = self.trunk(images)
        heat = self.heat(features).sigmoid()
        heat = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
        B, _, H, W = heat.shape
        scores, index = heat.flatten(1).topk(self.top)
        place = index % (H * W)
        size = self.size(features).flatten(2).gather(2, place[:, None].expand(B, 2, -1))
        offset = self.offset(features).flatten(2).gather(2, place[:, None].expand(B, 2, -1))
        centre = torch.stack([place % W, place // W], 1) + offset
        return torch.cat([centre - size / 2, centre + size / 2], 1).mT, scores, index // (H * W)


def get_inputs():
    return (torch.rand(2, 3, 64, 64),)
