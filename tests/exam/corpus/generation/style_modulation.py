# expect: model=Synthesis rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""StyleGAN's synthesis: a learned constant, convolutions whose weights the style scales, noise, upsampling."""

import torch
import torch.nn.functional as F
from torch import nn


class ModulatedConv(nn.Module):
    def __init__(self, c_in, c_out, style):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.affine = nn.Linear(style, c_in)
        self.noise = nn.Parameter(torch.zeros(1))

    def forward(self, x, style):
        B, C, H, W = x.shape
        weight = self.weight[None] * (self.affine(style) + 1)[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        x = F.conv2d(x.reshape(1, B * C, H, W), weight.flatten(0, 1), padding=1, groups=B).view(B, -1, H, W)
        return F.leaky_relu(x + self.noise * torch.randn(B, 1, H, W), 0.2)


class Synthesis(nn.Module):
    def __init__(self, latent=64, channels=(64, 48, 32)):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(latent, latent), nn.LeakyReLU(0.2), nn.Linear(latent, latent))
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        pairs = zip(channels, channels[1:], strict=False)
        self.layers = nn.ModuleList(ModulatedConv(a, b, latent) for a, b in pairs)
        self.to_rgb = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, z):
        w = self.mapping(F.normalize(z))
        x = self.constant.expand(z.shape[0], -1, -1, -1)
        for layer in self.layers:
            x = layer(F.interpolate(x, scale_factor=2, mode="bilinear"), w)
        return self.to_rgb(x)


def get_model():
    return Synthesis()


def get_inputs():
    return torch.randn(2, 64)
