# expect: model=HugeHead rule=djinn_entry phase=forward breaks=0 exit=0
"""Faces by a softmax over ten million people: a head of 20 GB on 512 features."""

import torch
import torch.nn.functional as F
from torch import nn


class HugeHead(nn.Module):
    def __init__(self, features=512, people=10_000_000):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(people, features, device="meta"))

    def forward(self, features, margin=0.5):
        cosine = F.normalize(features) @ F.normalize(self.weight).T
        return 64 * torch.cos(torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)) + margin)


def djinn_entry():
    return HugeHead(), [torch.randn(32, 512)]
