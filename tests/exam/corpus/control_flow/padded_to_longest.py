# expect: model=Ragged rule=class+get_inputs phase=encode/text breaks=1 exit=0
"""Work only up to the longest sentence of the batch, whose length is a value."""

import torch
from torch import nn


class Ragged(nn.Module):
    def __init__(self, vocabulary=100, dim=24):
        super().__init__()
        self.embed, self.mix = nn.Embedding(vocabulary, dim), nn.Linear(dim, dim)

    def forward(self, tokens, lengths):
        x = torch.tanh(self.mix(self.embed(tokens)))
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        return (x[:, :longest] * mask[..., None]).sum(1) / lengths[:, None]


def get_inputs():
    return torch.randint(100, (3, 12)), torch.tensor([4, 9, 2])
