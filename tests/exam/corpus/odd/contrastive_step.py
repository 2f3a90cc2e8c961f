# expect: model=MoCo rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Momentum contrast: a slow copy of the encoder and a queue of keys that every call moves on."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class MoCo(nn.Module):
    def __init__(self, dim=16, queue=32, momentum=0.99):
        super().__init__()
        self.momentum = momentum
        self.fast = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, dim))
        self.slow = copy.deepcopy(self.fast).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))

    @torch.no_grad()
    def follow(self):
        for slow, fast in zip(self.slow.parameters(), self.fast.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.momentum)

    def forward(self, first, second):
        q = F.normalize(self.fast(first))
        self.follow()
        k = F.normalize(self.slow(second)).detach()
        positive = (q * k).sum(-1, keepdim=True)
        logits = torch.cat([positive, q @ self.queue.clone()], 1) / 0.07
        self.queue.copy_(torch.cat([k.T, self.queue[:, : -k.shape[0]]], 1))
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def get_model():
    return MoCo()


def get_inputs():
    return torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
