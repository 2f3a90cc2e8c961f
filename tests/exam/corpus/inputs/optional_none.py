# expect: model=MaybeMasked rule=get_model+get_inputs phase=encode/text breaks=0 exit=0
"""Arguments that may be None, one of which is."""

import torch
from torch import nn


class MaybeMasked(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.embed, self.mix = nn.Embedding(30, dim), nn.Linear(dim, dim)

    def forward(self, tokens, mask=None, bias=None):
        x = torch.relu(self.mix(self.embed(tokens)))
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        if bias is not None:
            x = x + bias
        return x.sum(1)


def get_model():
    return MaybeMasked()


def get_inputs():
    return torch.randint(30, (2, 6)), None, torch.randn(16)
