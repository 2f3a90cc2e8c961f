# expect: model=BeatTracker rule=get_model phase=encode/audio breaks=0 exit=0
"""Beats in music: a convolution over a spectrogram, then a temporal convolutional network of wide reach."""

import torch
import torch.nn.functional as F
from torch import nn


class BeatTracker(nn.Module):
    def __init__(self, channels=20):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, (3, 3), padding=(1, 0))
        self.conv2 = nn.Conv2d(channels, channels, (1, 8))
        self.tcn = nn.ModuleList(nn.Conv1d(channels, channels, 5, padding=2 * 2**i, dilation=2**i) for i in range(7))
        self.out = nn.Conv1d(channels, 2, 1)

    def forward(self, spectrogram):
        x = F.elu(F.max_pool2d(self.conv1(spectrogram), (1, 3)))
        x = F.elu(F.max_pool2d(self.conv2(x), (1, 3)))
        x = x.amax(-1)
        for conv in self.tcn:
            x = x + F.elu(conv(x))
        return self.out(x).sigmoid()


def get_model():
    return BeatTracker(), torch.rand(1, 1, 400, 81)
