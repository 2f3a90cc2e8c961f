# expect: model=AttentiveDecoder rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Bahdanau's decoder: a GRU cell that looks at the encoder's states before each of a few steps."""

import torch
from torch import nn


class AttentiveDecoder(nn.Module):
    def __init__(self, states=40, hidden=32, symbols=30, steps=5):
        super().__init__()
        self.steps = steps
        self.keys, self.query = nn.Linear(states, hidden, bias=False), nn.Linear(hidden, hidden)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.cell, self.start = nn.GRUCell(states + symbols, hidden), nn.Linear(states, hidden)
        self.out = nn.Linear(hidden, symbols)

    def forward(self, states):
        keys, h = self.keys(states), torch.tanh(self.start(states.mean(1)))
        symbol = torch.zeros(states.shape[0], self.out.out_features)
        found = []
        for _ in range(self.steps):
            weights = self.energy(torch.tanh(keys + self.query(h)[:, None])).softmax(1)
            h = self.cell(torch.cat([(weights * states).sum(1), symbol], -1), h)
            symbol = self.out(h).softmax(-1)
            found.append(symbol)
        return torch.stack(found, 1)


def get_model():
    return AttentiveDecoder()


def get_inputs():
    return {"states": torch.randn(2, 9, 40)}
