# expect: model=- rule=- phase=- breaks=- exit=4 says=allow_rnn
"""Tags for words: torch's bidirectional LSTM, which Dynamo leaves to eager."""

import torch
from torch import nn


class LSTMTagger(nn.Module):
    def __init__(self, vocabulary=300, dim=32, hidden=48, tags=9):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.project = nn.Linear(dim, dim)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, tags)

    def forward(self, words):
        hidden, _ = self.lstm(torch.tanh(self.project(self.embed(words))))  # here
        return self.out(hidden).log_softmax(-1)


def get_model():
    return LSTMTagger()


def get_inputs():
    return torch.randint(300, (2, 14))
