# expect: model=KeywordNet rule=djinn_entry phase=encode/audio breaks=0 exit=0
"""Keywords in a second of sound: the spectrogram as an image, depthwise separable convolutions."""

import torch
from torch import nn


def separable(width, stride=1):
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class KeywordNet(nn.Module):
    def __init__(self, width=48, words=12):
        super().__init__()
        self.stem = nn.Conv2d(1, width, (4, 10), (2, 2), bias=False)
        self.body = nn.Sequential(*[separable(width) for _ in range(3)])
        self.out = nn.Linear(width, words)

    def forward(self, mfcc):
        return self.out(self.body(self.stem(mfcc)).mean((2, 3)))


def djinn_entry():
    return KeywordNet().eval(), {"mfcc": torch.randn(1, 1, 20, 98)}
