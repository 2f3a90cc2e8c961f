# expect: model=FourierOperator rule=Model+init+get_inputs phase=encode/vision breaks=0 exit=0
"""A Fourier neural operator on fields of two dimensions: the lowest modes are multiplied by complex weights."""

import torch
import torch.nn.functional as F
from torch import nn


class SpectralConv(nn.Module):
    def __init__(self, width, modes):
        super().__init__()
        self.modes = modes
        self.low = nn.Parameter(torch.randn(width, width, modes, modes, dtype=torch.cfloat) / width)
        self.high = nn.Parameter(torch.randn(width, width, modes, modes, dtype=torch.cfloat) / width)

    def forward(self, x):
        m = self.modes
        spectrum = torch.fft.rfft2(x)
        out = torch.zeros_like(spectrum)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.low)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.high)
        return torch.fft.irfft2(out, s=x.shape[-2:])


class FourierOperator(nn.Module):
    def __init__(self, width, modes, layers):
        super().__init__()
        self.lift, self.project = nn.Conv2d(3, width, 1), nn.Conv2d(width, 1, 1)
        self.spectral = nn.ModuleList(SpectralConv(width, modes) for _ in range(layers))
        self.local = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(layers))

    def forward(self, field):
        B, _, H, W = field.shape
        rows = torch.linspace(0, 1, H)[:, None].expand(B, 1, H, W)
        columns = torch.linspace(0, 1, W).expand(B, 1, H, W)
        x = self.lift(torch.cat([field, rows, columns], 1))
        for spectral, local in zip(self.spectral, self.local, strict=True):
            x = F.gelu(spectral(x) + local(x))
        return self.project(x)


Model = FourierOperator


def get_init_inputs():
    return [16, 6, 3]


def get_inputs():
    return [torch.randn(2, 1, 32, 32)]
