# expect: model=LocalDecoder rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""Attention to the last eight tokens only, with capped scores and norms on queries and keys."""

import torch
import torch.nn.functional as F
from torch import nn


class LocalDecoder(nn.Module):
    def __init__(self, vocabulary=200, dim=64, heads=4, layers=2, window=8):
        super().__init__()
        self.heads, self.window = heads, window
        self.embed = nn.Embedding(vocabulary, dim)
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim, bias=False) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(layers))
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), 10.0))

    def forward(self, ids):
        place = torch.arange(ids.shape[1])
        behind = place[:, None] - place[None, :]
        seen = (behind >= 0) & (behind < self.window)
        x = self.embed(ids)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature
            scores = 30 * torch.tanh(scores / 30)
            weights = scores.where(seen, torch.tensor(float("-inf"))).softmax(-1)
            x = x + out((weights @ v).transpose(1, 2).flatten(2))
        return x @ self.embed.weight.T


def get_model():
    return LocalDecoder()


def get_inputs():
    return (torch.randint(200, (1, 32)),)
