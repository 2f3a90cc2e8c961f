# expect: model=NoisePredictor rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""The network of a diffusion model: a small U-Net that knows the time step, with attention in the middle."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def time_features(t, dim):
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class ResBlock(nn.Module):
    def __init__(self, c_in, c_out, time_dim):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, c_in), nn.GroupNorm(8, c_out)
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.time = nn.Linear(time_dim, c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, t):
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.skip(x)


class SpatialAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        B, C, H, W = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, 3, C, H * W).unbind(1)
        weights = (q.mT @ k * C**-0.5).softmax(-1)
        return x + self.out((v @ weights.mT).view(B, C, H, W))


class NoisePredictor(nn.Module):
    def __init__(self, base=32):
        super().__init__()
        self.base = base
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        self.stem = nn.Conv2d(3, base, 3, padding=1)
        self.down1, self.down2 = ResBlock(base, base, 4 * base), ResBlock(base, 2 * base, 4 * base)
        self.attention = SpatialAttention(2 * base)
        self.up2, self.up1 = ResBlock(4 * base, base, 4 * base), ResBlock(2 * base, base, 4 * base)
        self.out = nn.Sequential(nn.GroupNorm(8, base), nn.SiLU(), nn.Conv2d(base, 3, 3, padding=1))

    def forward(self, noisy, t):
        t = self.time(time_features(t, self.base))
        a = self.down1(self.stem(noisy), t)
        b = self.down2(F.avg_pool2d(a, 2), t)
        m = self.attention(b)
        x = F.interpolate(self.up2(torch.cat([m, b], 1), t), scale_factor=2)
        return self.out(self.up1(torch.cat([x, a], 1), t))


def get_model():
    return NoisePredictor()


def get_inputs():
    return torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
