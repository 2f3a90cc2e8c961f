# expect: model=- rule=- phase=- breaks=- exit=4 says="RNN"
"""Nothing but torch's RNN: no graph at all comes of it, and the report says why."""

import torch
from torch import nn


class ElmanNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(10, 20, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]  # here


def get_model():
    return ElmanNet(), torch.randn(2, 7, 10)
