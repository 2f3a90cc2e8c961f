# expect: model=Upscaler rule=djinn_entry phase=encode/vision breaks=0 exit=0
"""Super-resolution by sub-pixels: convolutions at low resolution, then a shuffle of channels to space."""

import torch
from torch import nn


class Upscaler(nn.Module):
    def __init__(self, factor=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh())
        self.last = nn.Conv2d(32, factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, luminance):
        return self.shuffle(self.last(self.body(luminance))).clamp(0, 1)


def djinn_entry():
    return Upscaler(), (torch.rand(1, 1, 48, 48),)
