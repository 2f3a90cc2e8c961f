# expect: model=BeamSearch rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Beam search for a fixed number of steps: indices are gathered, nothing is asked for its value."""

import torch
from torch import nn


class BeamSearch(nn.Module):
    def __init__(self, symbols=15, hidden=20, beams=3, steps=4):
        super().__init__()
        self.symbols, self.beams, self.steps = symbols, beams, steps
        self.embed, self.cell = nn.Embedding(symbols, hidden), nn.GRUCell(hidden, hidden)
        self.out = nn.Linear(hidden, symbols)

    def forward(self, state):
        h = state.expand(self.beams, -1)
        scores = torch.full((self.beams,), -1e9)
        scores[0] = 0
        last = torch.zeros(self.beams, dtype=torch.long)
        path = last[:, None]
        for _ in range(self.steps):
            h = self.cell(self.embed(last), h)
            every = scores[:, None] + self.out(h).log_softmax(-1)
            scores, index = every.flatten().topk(self.beams)
            origin, last = index // self.symbols, index % self.symbols
            h, path = h[origin], torch.cat([path[origin], last[:, None]], 1)
        return path, scores


def get_model():
    return BeamSearch()


def get_inputs():
    return torch.randn(1, 20)
