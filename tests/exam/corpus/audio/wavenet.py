# expect: model=WaveNet rule=get_model+example_inputs phase=encode/audio breaks=0 exit=0
"""WaveNet: dilated causal convolutions with gates, residuals and skips over a waveform."""

import torch
import torch.nn.functional as F
from torch import nn


class GatedLayer(nn.Module):
    def __init__(self, width, skip, dilation):
        super().__init__()
        self.pad = dilation
        self.conv = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, skip, 1)

    def forward(self, x):
        filtered, gate = self.conv(F.pad(x, (self.pad, 0))).chunk(2, 1)
        y = filtered.tanh() * gate.sigmoid()
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    def __init__(self, width=24, skip=32, layers=6, levels=64):
        super().__init__()
        self.first = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(GatedLayer(width, skip, 2**i) for i in range(layers))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, levels, 1))

    def forward(self, waveform):
        x, total = self.first(waveform), 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.out(total)


def get_model():
    return WaveNet()


example_inputs = torch.randn(1, 1, 1600)
