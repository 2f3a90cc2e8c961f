# expect: model=StateSpace rule=class+init+get_inputs phase=forward breaks=0 exit=0
"""A diagonal state space layer as one long convolution, made by powers and applied with a Fourier transform."""

import torch
import torch.nn.functional as F
from torch import nn


class StateSpace(nn.Module):
    def __init__(self, channels, state):
        super().__init__()
        self.log_decay = nn.Parameter(torch.log(0.5 * torch.ones(channels, state)))
        self.frequency = nn.Parameter(torch.pi * torch.arange(state).repeat(channels, 1))
        self.mix = nn.Parameter(torch.randn(channels, state, 2))
        self.log_step = nn.Parameter(torch.full((channels,), -4.0))
        self.skip = nn.Parameter(torch.randn(channels))

    def forward(self, series):
        length = series.shape[-1]
        pole = torch.complex(-self.log_decay.exp(), self.frequency)
        step = self.log_step.exp()[:, None]
        power = (pole * step)[..., None] * torch.arange(length)
        mix = torch.view_as_complex(self.mix) * ((pole * step).exp() - 1) / pole
        kernel = 2 * (mix[..., None] * power.exp()).sum(1).real
        spectrum = torch.fft.rfft(series, 2 * length) * torch.fft.rfft(kernel, 2 * length)
        return F.gelu(torch.fft.irfft(spectrum, 2 * length)[..., :length] + series * self.skip[:, None])


def get_init_inputs():
    return {"channels": 8, "state": 16}


def get_inputs():
    return torch.randn(2, 8, 100)
