# expect: model=LogMel rule=class+get_inputs phase=encode/audio breaks=0 exit=0
"""Waveform to log-mel: a short-time Fourier transform, triangles over frequency, a logarithm, a projection."""

import torch
from torch import nn


def triangles(bins, mels, rate=16_000):
    top = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), mels + 2) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, bins)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class LogMel(nn.Module):
    def __init__(self, size=400, hop=160, mels=40):
        super().__init__()
        self.size, self.hop = size, hop
        self.register_buffer("window", torch.hann_window(size))
        self.register_buffer("filters", triangles(size // 2 + 1, mels))
        self.classify = nn.Linear(mels, 12)

    def forward(self, waveform):
        spectrum = torch.stft(waveform, self.size, self.hop, window=self.window, return_complex=True)
        mel = spectrum.abs().square().mT @ self.filters
        return self.classify(mel.clamp(min=1e-10).log10()).mean(1)


def get_inputs():
    return torch.randn(2, 8000)
