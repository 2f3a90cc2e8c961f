# expect: model=NBeats rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""N-BEATS: blocks that explain a part of the past and forecast it, by trends and seasons."""

import torch
from torch import nn


class BasisBlock(nn.Module):
    def __init__(self, past, width, back, ahead):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(past, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.weights = nn.Linear(width, back.shape[0] + ahead.shape[0])
        self.register_buffer("back", back)
        self.register_buffer("ahead", ahead)

    def forward(self, x):
        back, ahead = self.weights(self.net(x)).split([self.back.shape[0], self.ahead.shape[0]], -1)
        return back @ self.back, ahead @ self.ahead


def trend(length, degree=3):
    return (torch.arange(length) / length) ** torch.arange(degree)[:, None]


def season(length, count=4):
    angle = 2 * torch.pi * torch.arange(1, count + 1)[:, None] * torch.arange(length) / length
    return torch.cat([angle.cos(), angle.sin()])


class NBeats(nn.Module):
    def __init__(self, past=48, horizon=12, width=32):
        super().__init__()
        self.blocks = nn.ModuleList(
            BasisBlock(past, width, basis(past), basis(horizon)) for basis in (trend, trend, season, season)
        )

    def forward(self, series):
        forecast = 0
        for block in self.blocks:
            back, ahead = block(series)
            series, forecast = series - back, forecast + ahead
        return forecast


def get_model():
    return NBeats()


def get_inputs():
    return torch.randn(6, 48)
