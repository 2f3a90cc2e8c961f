# expect: model=ConvTasNet rule=get_model+get_inputs phase=encode/audio breaks=0 exit=0
"""Speech separation: a learned filter bank, a temporal network that makes masks, and back to sound."""

import torch
from torch import nn


class TemporalBlock(nn.Module):
    def __init__(self, width, hidden, dilation):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(width, hidden, 1),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
            nn.Conv1d(hidden, width, 1),
        )

    def forward(self, x):
        return x + self.net(x)


class ConvTasNet(nn.Module):
    def __init__(self, filters=64, kernel=16, speakers=2):
        super().__init__()
        self.speakers = speakers
        self.encode = nn.Conv1d(1, filters, kernel, kernel // 2, bias=False)
        self.blocks = nn.Sequential(*[TemporalBlock(filters, 96, 2**i) for i in range(4)])
        self.masks = nn.Conv1d(filters, speakers * filters, 1)
        self.decode = nn.ConvTranspose1d(filters, 1, kernel, kernel // 2, bias=False)

    def forward(self, mixture):
        features = torch.relu(self.encode(mixture[:, None]))
        masks = self.masks(self.blocks(features)).sigmoid().unflatten(1, (self.speakers, -1))
        apart = (masks * features[:, None]).flatten(0, 1)
        return self.decode(apart).view(mixture.shape[0], self.speakers, -1)


def get_model():
    return ConvTasNet()


def get_inputs():
    return [torch.randn(1, 4000)]
