# expect: model=- rule=- phase=- breaks=- exit=4 says=allow_rnn
"""The next hours of a series: torch's GRU reads the past, a small network says what follows."""

import torch
from torch import nn


class Forecaster(nn.Module):
    def __init__(self, features=5, hidden=32, horizon=6):
        super().__init__()
        self.gru = nn.GRU(features, hidden, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, 64), nn.ReLU(), nn.Linear(64, horizon))

    def forward(self, past):
        _, last = self.gru(past)  # here
        return self.head(last[-1])


example_inputs = (torch.randn(8, 24, 5),)
