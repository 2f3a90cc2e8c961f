# expect: model=Translator rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""An encoder-decoder for translation: the decoder looks back at itself and across at the source."""

import math

import torch
from torch import nn


class Translator(nn.Module):
    def __init__(self, source=200, target=220, dim=64):
        super().__init__()
        self.source, self.target = nn.Embedding(source, dim), nn.Embedding(target, dim)
        angles = torch.arange(64)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000) / dim))
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))
        self.transformer = nn.Transformer(dim, 4, 2, 2, 128, dropout=0.1, batch_first=True)
        self.register_buffer("causal", torch.full((64, 64), float("-inf")).triu(1))
        self.out = nn.Linear(dim, target)

    def forward(self, source, target):
        S, T = source.shape[1], target.shape[1]
        memory = self.transformer.encoder(self.source(source) * 8 + self.places[:S])
        x = self.transformer.decoder(
            self.target(target) * 8 + self.places[:T], memory, self.causal[:T, :T], tgt_is_causal=True
        )
        return self.out(x)


def get_model():
    return Translator().eval()


def get_inputs():
    return torch.randint(200, (2, 20)), torch.randint(220, (2, 17))
