# expect: model=EGNN rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""An E(n) equivariant layer: messages from distances move the coordinates along differences."""

import torch
from torch import nn


class EGNNLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2 * dim + 1, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.gate = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())
        self.coordinate = nn.Linear(dim, 1, bias=False)
        self.node = nn.Sequential(nn.Linear(2 * dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, h, x):
        n = h.shape[0]
        delta = x[:, None] - x[None]
        square = delta.square().sum(-1, keepdim=True)
        message = self.edge(torch.cat([h[:, None].expand(n, n, -1), h[None].expand(n, n, -1), square], -1))
        message = message * self.gate(message)
        x = x + (delta / (square.sqrt() + 1) * self.coordinate(message)).mean(1)
        return h + self.node(torch.cat([h, message.sum(1)], -1)), x


class EGNN(nn.Module):
    def __init__(self, features=6, dim=24, layers=2):
        super().__init__()
        self.embed = nn.Linear(features, dim)
        self.layers = nn.ModuleList(EGNNLayer(dim) for _ in range(layers))

    def forward(self, features, positions):
        h = self.embed(features)
        for layer in self.layers:
            h, positions = layer(h, positions)
        return h, positions


def get_model():
    return EGNN()


def get_inputs():
    return torch.randn(9, 6), torch.randn(9, 3)
