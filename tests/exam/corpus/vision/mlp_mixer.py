# expect: model=MlpMixer rule=factory+images phase=encode/vision breaks=0 exit=0
"""MLP-Mixer: one MLP over patches, one over channels."""

import torch
from torch import nn


class Mixing(nn.Module):
    def __init__(self, tokens, channels):
        super().__init__()
        self.norm_tokens, self.norm_channels = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.over_tokens = nn.Sequential(nn.Linear(tokens, 64), nn.GELU(), nn.Linear(64, tokens))
        self.over_channels = nn.Sequential(nn.Linear(channels, 128), nn.GELU(), nn.Linear(128, channels))

    def forward(self, x):
        x = x + self.over_tokens(self.norm_tokens(x).mT).mT
        return x + self.over_channels(self.norm_channels(x))


class MlpMixer(nn.Module):
    def __init__(self, patch, tokens, channels, depth):
        super().__init__()
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.mixing = nn.Sequential(*[Mixing(tokens, channels) for _ in range(depth)])
        self.head = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 100))

    def forward(self, images):
        x = self.mixing(self.embed(images).flatten(2).mT)
        return self.head(x.mean(1))


def build_model():
    return MlpMixer(patch=8, tokens=64, channels=80, depth=3)


images = torch.rand(1, 3, 64, 64)
