# expect: model=Synthesiser rule=class+get_inputs phase=forward breaks=0 exit=0
"""Sound from controls: harmonics of a pitch, and noise through filters made by a network."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Synthesiser(nn.Module):
    def __init__(self, harmonics=16, bands=33, hop=64, rate=16_000):
        super().__init__()
        self.hop, self.rate = hop, rate
        self.net = nn.Sequential(nn.Linear(2, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, harmonics + bands + 1))
        self.register_buffer("number", torch.arange(1, harmonics + 1))
        self.harmonics = harmonics

    def upsampled(self, frames):
        return F.interpolate(frames.mT, scale_factor=self.hop, mode="linear", align_corners=True).mT

    def forward(self, pitch, loudness):
        controls = self.net(torch.cat([pitch.log(), loudness], -1))
        loud, amplitude, bands = controls.split([1, self.harmonics, controls.shape[-1] - self.harmonics - 1], -1)
        amplitude = amplitude.softmax(-1) * (pitch * self.number < self.rate / 2)
        phase = torch.cumsum(2 * math.pi * self.upsampled(pitch) / self.rate, 1)
        tone = (torch.sin(phase * self.number) * self.upsampled(amplitude * loud.sigmoid())).sum(-1)
        noise = torch.rand(pitch.shape[0], pitch.shape[1], self.hop) * 2 - 1
        shaped = torch.fft.irfft(torch.fft.rfft(noise, 2 * self.hop - 2 + 2) * F.pad(bands.sigmoid(), (0, 32)))
        return tone + shaped[..., : self.hop].flatten(1)


def get_inputs():
    return {"pitch": torch.full((1, 25, 1), 220.0), "loudness": torch.rand(1, 25, 1)}
