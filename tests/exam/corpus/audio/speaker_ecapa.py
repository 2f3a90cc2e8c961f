# expect: model=SpeakerEmbedding rule=get_model+get_inputs phase=encode/audio breaks=0 exit=0
"""A speaker's voice as a vector: Res2-style convolutions over features, statistics weighted by attention."""

import torch
import torch.nn.functional as F
from torch import nn


class Res2Conv(nn.Module):
    def __init__(self, width, scale, dilation):
        super().__init__()
        self.scale = scale
        self.convs = nn.ModuleList(
            nn.Conv1d(width // scale, width // scale, 3, padding=dilation, dilation=dilation) for _ in range(scale - 1)
        )

    def forward(self, x):
        first, *rest = x.chunk(self.scale, 1)
        found, last = [first], 0
        for part, conv in zip(rest, self.convs, strict=True):
            last = F.relu(conv(part + last))
            found.append(last)
        return torch.cat(found, 1) + x


class SpeakerEmbedding(nn.Module):
    def __init__(self, features=40, width=64, dim=96):
        super().__init__()
        self.stem = nn.Conv1d(features, width, 5, padding=2)
        self.blocks = nn.ModuleList(Res2Conv(width, 4, d) for d in (2, 3, 4))
        self.gather = nn.Conv1d(3 * width, width, 1)
        self.attention = nn.Sequential(nn.Conv1d(width, 32, 1), nn.Tanh(), nn.Conv1d(32, width, 1))
        self.embed = nn.Linear(2 * width, dim)

    def forward(self, features):
        x, kept = F.relu(self.stem(features)), []
        for block in self.blocks:
            x = block(x)
            kept.append(x)
        x = self.gather(torch.cat(kept, 1))
        weight = self.attention(x).softmax(-1)
        mean = (weight * x).sum(-1)
        deviation = ((weight * x.square()).sum(-1) - mean.square()).clamp(min=1e-6).sqrt()
        return F.normalize(self.embed(torch.cat([mean, deviation], 1)))


def get_model():
    return SpeakerEmbedding()


def get_inputs():
    return torch.randn(3, 40, 100)
