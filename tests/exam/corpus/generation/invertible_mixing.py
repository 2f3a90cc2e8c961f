# expect: model=Glow rule=class+get_inputs phase=encode/vision breaks=0 exit=0
"""One step of Glow: activation norm, an invertible 1 x 1 convolution with its determinant, a coupling."""

import torch
import torch.nn.functional as F
from torch import nn


class Glow(nn.Module):
    def __init__(self, channels=12, hidden=64):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.net = nn.Sequential(
            nn.Conv2d(channels // 2, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, channels, 3, padding=1)
        )

    def forward(self, image):
        x = F.pixel_unshuffle(image, 2)
        area = x.shape[2] * x.shape[3]
        x = x * self.scale + self.bias
        log_det = area * self.scale.abs().log().sum()
        x = F.conv2d(x, self.mix[:, :, None, None])
        log_det = log_det + area * torch.linalg.slogdet(self.mix)[1]
        a, b = x.chunk(2, 1)
        log_scale, shift = self.net(a).chunk(2, 1)
        scale = torch.sigmoid(log_scale + 2)
        return torch.cat([a, (b + shift) * scale], 1), log_det + scale.log().sum((1, 2, 3))


def get_inputs():
    return torch.rand(2, 3, 16, 16)
