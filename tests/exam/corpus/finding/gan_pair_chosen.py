# expect: attr=Discriminator model=Discriminator rule=named-class+image phase=encode/vision breaks=0 exit=0
"""The same sort of pair, and the command names one of the two."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(16, 3, 8)

    def forward(self, noise):
        return self.up(noise)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            spectral_norm(nn.Conv2d(3, 32, 4, 2, 1)), nn.LeakyReLU(0.1), spectral_norm(nn.Conv2d(32, 64, 4, 2, 1))
        )
        self.out = spectral_norm(nn.Linear(64, 1))

    def forward(self, image):
        return self.out(self.net(image).relu().sum((2, 3)))


image = torch.rand(2, 3, 8, 8)
