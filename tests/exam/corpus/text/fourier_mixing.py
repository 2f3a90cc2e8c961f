# expect: model=FNet rule=get_model+tokens phase=encode/text breaks=0 exit=0
"""FNet: tokens are mixed by a Fourier transform instead of attention."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = self.norm1(x + torch.fft.fft2(x).real)
        return self.norm2(x + self.mlp(x))


class FNet(nn.Module):
    def __init__(self, vocabulary=400, dim=48, depth=4):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.body = nn.Sequential(*[Mixer(dim) for _ in range(depth)])
        self.pool, self.out = nn.Linear(dim, dim), nn.Linear(dim, 3)

    def forward(self, tokens):
        return self.out(torch.tanh(self.pool(self.body(self.embed(tokens))[:, 0])))


def get_model():
    return FNet()


tokens = torch.randint(400, (3, 32))
