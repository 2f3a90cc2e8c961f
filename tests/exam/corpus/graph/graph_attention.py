# expect: model=GAT rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""Attention over each node's neighbours, as a softmax over edges of one target."""

import torch
import torch.nn.functional as F
from torch import nn


def edge_softmax(scores, target, nodes):
    index = target[:, None].expand_as(scores)
    top = torch.full((nodes, scores.shape[1]), -torch.inf).scatter_reduce(0, index, scores, "amax")
    weights = (scores - top[target]).exp()
    total = torch.zeros(nodes, scores.shape[1]).index_add(0, target, weights)
    return weights / (total[target] + 1e-16)


class GATLayer(nn.Module):
    def __init__(self, c_in, c_out, heads):
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(c_in, heads * c_out, bias=False)
        self.left, self.right = (nn.Parameter(torch.randn(heads, c_out) * 0.1) for _ in range(2))

    def forward(self, x, edges):
        source, target = edges
        h = self.linear(x).view(x.shape[0], self.heads, -1)
        scores = F.leaky_relu((h * self.left).sum(-1)[source] + (h * self.right).sum(-1)[target], 0.2)
        weights = edge_softmax(scores, target, x.shape[0])
        return torch.zeros_like(h).index_add(0, target, weights[..., None] * h[source]).flatten(1)


class GAT(nn.Module):
    def __init__(self, features, hidden, heads, classes):
        super().__init__()
        self.first, self.second = GATLayer(features, hidden, heads), GATLayer(hidden * heads, classes, 1)

    def forward(self, x, edges):
        return self.second(F.elu(self.first(x, edges)), edges)


Model = GAT


def get_init_inputs():
    return [12, 8, 4, 3]


def get_inputs():
    return [torch.randn(20, 12), torch.randint(0, 20, (2, 64))]
