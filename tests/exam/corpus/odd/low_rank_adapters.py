# expect: model=Adapted rule=get_model+get_inputs phase=encode/text breaks=0 exit=0
"""Low-rank adapters put around the linear layers of a frozen model by walking its modules."""

import torch
from torch import nn


class LoRA(nn.Module):
    def __init__(self, base, rank=4, alpha=8):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + (x @ self.down.T @ self.up.T) * self.scale


class Adapted(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.embed = nn.Embedding(90, dim)
        self.body = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.LayerNorm(dim))
        self.requires_grad_(False)
        for name, part in list(self.body.named_children()):
            if isinstance(part, nn.Linear):
                setattr(self.body, name, LoRA(part))

    def forward(self, tokens):
        return self.body(self.embed(tokens)).mean(1)


def get_model():
    return Adapted()


def get_inputs():
    return torch.randint(90, (2, 11))
