# expect: model=- rule=- phase=- breaks=- exit=3 says="more than one model" lists=Generator,Discriminator
"""A generator and a discriminator: two models of one rank, so both are listed."""

import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 28 * 28), nn.Tanh())

    def forward(self, noise):
        return self.net(noise).view(-1, 1, 28, 28)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def forward(self, image):
        return self.net(image)


noise = torch.randn(8, 16)
