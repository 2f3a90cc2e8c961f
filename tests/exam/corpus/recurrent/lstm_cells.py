# expect: model=CellModel rule=get_model+get_inputs phase=encode/text breaks=0 exit=0
"""A character model of LSTM cells, unrolled in Python over the characters."""

import torch
from torch import nn


class CellModel(nn.Module):
    def __init__(self, characters=60, hidden=40):
        super().__init__()
        self.hidden = hidden
        self.embed = nn.Embedding(characters, 16)
        self.cell1, self.cell2 = nn.LSTMCell(16, hidden), nn.LSTMCell(hidden, hidden)
        self.out = nn.Linear(hidden, characters)

    def forward(self, text):
        B = text.shape[0]
        first = second = (torch.zeros(B, self.hidden), torch.zeros(B, self.hidden))
        found = []
        for x in self.embed(text).unbind(1):
            first = self.cell1(x, first)
            second = self.cell2(first[0], second)
            found.append(self.out(second[0]))
        return torch.stack(found, 1)


def get_model():
    return CellModel()


def get_inputs():
    return torch.randint(60, (3, 12))
