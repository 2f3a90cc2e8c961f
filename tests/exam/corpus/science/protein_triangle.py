# expect: model=TriangleUpdate rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A pair representation of a protein updated over triangles of residues, by gated products."""

import torch
from torch import nn


class TriangleUpdate(nn.Module):
    def __init__(self, dim=16, hidden=16):
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(hidden)
        self.a, self.b, self.gate_a, self.gate_b = (nn.Linear(dim, hidden) for _ in range(4))
        self.gate, self.out = nn.Linear(dim, dim), nn.Linear(hidden, dim)

    def forward(self, pairs):
        z = self.norm_in(pairs)
        a, b = self.gate_a(z).sigmoid() * self.a(z), self.gate_b(z).sigmoid() * self.b(z)
        outgoing = torch.einsum("bikc,bjkc->bijc", a, b)
        return pairs + self.gate(z).sigmoid() * self.out(self.norm_out(outgoing))


def get_model():
    return TriangleUpdate()


def get_inputs():
    return torch.randn(1, 18, 18, 16)
