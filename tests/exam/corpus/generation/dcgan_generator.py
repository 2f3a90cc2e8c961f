# expect: model=Generator rule=class+init+get_inputs phase=forward breaks=0 exit=0
"""DCGAN's generator: noise in, an image out. Nothing is read but a vector."""

import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self, noise, width, channels):
        super().__init__()
        self.start = nn.Linear(noise, 4 * width * 16)
        self.up = nn.Sequential(
            nn.BatchNorm2d(4 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, noise):
        return self.up(self.start(noise).view(noise.shape[0], -1, 4, 4))


def get_init_inputs():
    return [64, 24, 3]


def get_inputs():
    return [torch.randn(4, 64)]
