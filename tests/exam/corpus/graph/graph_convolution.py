# expect: model=GCN rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A graph convolutional network on a list of edges: degrees, normalised messages, sums."""

import torch
from torch import nn


class GraphConv(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.linear = nn.Linear(c_in, c_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x, edges):
        source, target = edges
        degree = torch.ones(x.shape[0]).index_add(0, target, torch.ones(target.shape[0]))
        norm = degree.rsqrt()
        h = self.linear(x)
        messages = h[source] * (norm[source] * norm[target])[:, None]
        return torch.zeros_like(h).index_add(0, target, messages) + h / degree[:, None] + self.bias


class GCN(nn.Module):
    def __init__(self, features=16, hidden=32, classes=7):
        super().__init__()
        self.conv1, self.conv2 = GraphConv(features, hidden), GraphConv(hidden, classes)

    def forward(self, x, edges):
        return self.conv2(torch.relu(self.conv1(x, edges)), edges).log_softmax(-1)


def get_model():
    return GCN()


def get_inputs():
    return torch.randn(30, 16), torch.randint(30, (2, 80))
