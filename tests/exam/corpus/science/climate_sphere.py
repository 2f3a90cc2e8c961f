# expect: model=PaddedWeather rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Weather on a globe: convolutions padded around in longitude and by reflection at the poles, in residual steps."""

import torch
import torch.nn.functional as F
from torch import nn


class GlobeConv(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3)

    def forward(self, x):
        x = F.pad(x, (1, 1, 0, 0), mode="circular")
        return self.conv(F.pad(x, (0, 0, 1, 1), mode="reflect"))


class PaddedWeather(nn.Module):
    def __init__(self, variables=5, width=32, steps=3):
        super().__init__()
        self.steps = steps
        self.net = nn.Sequential(GlobeConv(variables, width), nn.SiLU(), GlobeConv(width, variables))
        self.register_buffer("area", torch.cos(torch.linspace(-1.5, 1.5, 24)))

    def forward(self, state):
        for _ in range(self.steps):
            change = self.net(state)
            state = state + change - (change * self.area[:, None]).mean((2, 3), keepdim=True) / self.area.mean()
        return state


def get_model():
    return PaddedWeather()


def get_inputs():
    return torch.randn(1, 5, 24, 48)
