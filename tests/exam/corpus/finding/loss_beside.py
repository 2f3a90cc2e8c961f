# expect: model=SegmentationNet rule=class+get_inputs phase=encode/vision breaks=0 exit=0
"""A model, the loss it is trained with, and a metric; only one of the three is a model."""

import torch
from torch import nn


class DiceLoss(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits, target):
        p = logits.sigmoid()
        return 1 - (2 * (p * target).sum() + self.smooth) / (p.sum() + target.sum() + self.smooth)


class IoUMetric(nn.Module):
    def forward(self, logits, target):
        p = logits > 0
        return (p & target.bool()).sum() / (p | target.bool()).sum()


class SegmentationNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(16, 1, 3, padding=1))

    def forward(self, scan):
        return self.net(scan)


def get_inputs():
    return torch.rand(1, 1, 24, 24)
