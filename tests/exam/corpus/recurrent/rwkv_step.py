# expect: model=RWKVStep rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""One step of RWKV on a ready embedding: time mixing with a decayed numerator and denominator, kept in log space."""

import torch
from torch import nn


class RWKVStep(nn.Module):
    def __init__(self, dim=48):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(4, dim))
        self.decay, self.first = nn.Parameter(torch.rand(dim)), nn.Parameter(torch.rand(dim))
        self.key, self.value, self.receptance, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x, last, numerator, denominator, largest):
        k, v, r, f = (x * m + last * (1 - m) for m in self.mix)
        k, v, r = self.key(k), self.value(v), self.receptance(r).sigmoid()
        top = torch.maximum(largest, self.first + k)
        old, new = (largest - top).exp(), (self.first + k - top).exp()
        y = x + self.out(r * (old * numerator + new * v) / (old * denominator + new))
        top = torch.maximum(largest - self.decay.exp(), k)
        old, new = (largest - self.decay.exp() - top).exp(), (k - top).exp()
        y = y + self.down(torch.relu(self.up(f)).square())
        return y, x, old * numerator + new * v, old * denominator + new, top


def get_model():
    return RWKVStep()


def get_inputs():
    return [torch.randn(2, 48), torch.randn(2, 48), torch.zeros(2, 48), torch.zeros(2, 48), torch.full((2, 48), -1e30)]
