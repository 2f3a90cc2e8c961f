# expect: model=CrossNetwork rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""DCN v2: explicit crosses of bounded degree, with low-rank weights and a mixture of them."""

import torch
from torch import nn


class CrossNetwork(nn.Module):
    def __init__(self, features, rank, layers, experts):
        super().__init__()
        self.down = nn.ParameterList(nn.Parameter(torch.randn(experts, features, rank) * 0.1) for _ in range(layers))
        self.up = nn.ParameterList(nn.Parameter(torch.randn(experts, rank, features) * 0.1) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(features, experts, bias=False) for _ in range(layers))
        self.out = nn.Linear(features, 1)

    def forward(self, x0):
        x = x0
        for down, up, gate in zip(self.down, self.up, self.gates, strict=True):
            inner = torch.tanh(torch.einsum("bf,efr->ber", x, down))
            crossed = x0[:, None] * torch.einsum("ber,erf->bef", inner, up)
            x = x + (gate(x).softmax(-1)[..., None] * crossed).sum(1)
        return self.out(x)


Model = CrossNetwork


def get_inputs():
    return [torch.rand(16, 30)]


def get_init_inputs():
    return [30, 4, 3, 2]
