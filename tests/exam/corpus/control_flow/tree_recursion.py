# expect: model=TreeLSTM rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A tree LSTM that recurs over a nested tuple; the tree's shape is Python's, not a value."""

import torch
from torch import nn


class TreeLSTM(nn.Module):
    def __init__(self, words=20, dim=16):
        super().__init__()
        self.dim = dim
        self.words = nn.Parameter(torch.randn(words, dim))
        self.merge = nn.Linear(2 * dim, 5 * dim)

    def node(self, tree):
        if isinstance(tree, int):
            return self.words[tree], torch.zeros(self.dim)
        (left, c_left), (right, c_right) = self.node(tree[0]), self.node(tree[1])
        i, f_left, f_right, o, u = self.merge(torch.cat([left, right])).chunk(5)
        c = i.sigmoid() * u.tanh() + f_left.sigmoid() * c_left + f_right.sigmoid() * c_right
        return o.sigmoid() * c.tanh(), c

    def forward(self, tree):
        return self.node(tree)[0]


def get_model():
    return TreeLSTM()


def get_inputs():
    return {"tree": ((1, 2), ((3, 4), 5))}
