# expect: model=StreamingNorm rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A buffer that every call changes: means that run, also in evaluation."""

import torch
from torch import nn


class StreamingNorm(nn.Module):
    def __init__(self, features=13):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.out = nn.Linear(features, 3)

    def forward(self, x):
        self.calls += 1
        self.mean.lerp_(x.mean(0), 0.1)
        return self.out(x - self.mean) / self.calls.clamp(max=10)


def get_model():
    return StreamingNorm().eval()


def get_inputs():
    return torch.randn(20, 13)
