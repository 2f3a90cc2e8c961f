# expect: model=HyperNetwork rule=class+get_inputs phase=forward breaks=0 exit=0
"""A network that writes the weights of another, called by functional_call for a batch under vmap."""

import torch
from torch import nn
from torch.func import functional_call, vmap


class HyperNetwork(nn.Module):
    def __init__(self, task=5):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).requires_grad_(False)
        self.names = [(name, p.shape, p.numel()) for name, p in self.main.named_parameters()]
        self.write = nn.Linear(task, sum(count for _, _, count in self.names))

    def one(self, weights, points):
        parts = weights.split([count for _, _, count in self.names])
        named = {name: part.view(shape) for (name, shape, _), part in zip(self.names, parts, strict=True)}
        return functional_call(self.main, named, (points,))

    def forward(self, task, points):
        return vmap(self.one)(self.write(task), points)


def get_inputs():
    return torch.randn(3, 5), torch.randn(3, 20, 2)
