# expect: model=Conformer rule=Model+init+get_inputs phase=encode/audio breaks=0 exit=0
"""A Conformer encoder on log-mel frames: half feed-forwards around attention and a convolution."""

import torch
import torch.nn.functional as F
from torch import nn


class FeedForward(nn.Sequential):
    def __init__(self, dim):
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))


class ConvModule(nn.Module):
    def __init__(self, dim, kernel=15):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand, self.reduce = nn.Conv1d(dim, 2 * dim, 1), nn.Conv1d(dim, dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)

    def forward(self, x):
        y = F.glu(self.expand(self.norm(x).mT), 1)
        return self.reduce(F.silu(self.batch_norm(self.depthwise(y)))).mT


class ConformerBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.before, self.after = FeedForward(dim), FeedForward(dim)
        self.norm_attention, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.conv = ConvModule(dim)

    def forward(self, x):
        x = x + 0.5 * self.before(x)
        y = self.norm_attention(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.conv(x)
        return self.norm(x + 0.5 * self.after(x))


class Conformer(nn.Module):
    def __init__(self, mels, dim, depth, symbols):
        super().__init__()
        self.subsample = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.project = nn.Linear(16 * mels // 4, dim)
        self.blocks = nn.Sequential(*[ConformerBlock(dim, 4) for _ in range(depth)])
        self.ctc = nn.Linear(dim, symbols)

    def forward(self, frames):
        x = self.subsample(frames[:, None])
        x = self.project(x.transpose(1, 2).flatten(2))
        return self.ctc(self.blocks(x)).log_softmax(-1)


Model = Conformer


def get_inputs():
    return [torch.randn(2, 120, 80)]


def get_init_inputs():
    return [80, 64, 2, 32]
