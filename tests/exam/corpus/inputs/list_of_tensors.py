# expect: model=MultiScale rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""A list of images of different sizes, and a list of tensors out."""

import torch
from torch import nn


class MultiScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ELU())

    def forward(self, images):
        return [self.shared(image).amax((2, 3)) for image in images]


def get_model():
    return MultiScale().eval()


def get_inputs():
    return [[torch.rand(1, 3, size, size) for size in (16, 24, 40)]]
