# expect: model=Model rule=Model+init+get_inputs phase=encode/vision breaks=0 exit=0
"""ConvNeXt: depthwise 7 x 7, LayerNorm over channels last, an inverted bottleneck and a learned scale."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, dim, scale=1e-6):
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, 4 * dim)
        self.reduce = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x):
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.reduce(F.gelu(self.expand(self.norm(y))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class Model(nn.Module):
    def __init__(self, dim, depth, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.Sequential(*[Block(dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(self.norm(x.mean([-2, -1])))


def get_inputs():
    return [torch.rand(2, 3, 64, 64)]


def get_init_inputs():
    return [48, 3, 20]
