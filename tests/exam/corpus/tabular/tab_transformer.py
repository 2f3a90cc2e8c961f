# expect: model=FTTransformer rule=get_model+get_inputs phase=encode breaks=0 exit=0
"""A feature tokeniser and a transformer over the columns of a table."""

import torch
from torch import nn


class FTTransformer(nn.Module):
    def __init__(self, numbers=7, categories=(4, 9), dim=32):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(numbers, dim)), nn.Parameter(torch.zeros(numbers, dim))
        self.embeds = nn.ModuleList(nn.Embedding(size, dim) for size in categories)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        layer = nn.TransformerEncoderLayer(dim, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(dim, 1)

    def forward(self, numbers, categories):
        tokens = [numbers[..., None] * self.weight + self.bias]
        tokens += [embed(categories[:, i])[:, None] for i, embed in enumerate(self.embeds)]
        x = torch.cat([self.cls.expand(len(numbers), -1, -1), *tokens], 1)
        return self.out(self.encoder(x)[:, 0])


def get_model():
    return FTTransformer().eval()


def get_inputs():
    return torch.randn(8, 7), torch.randint(4, (8, 2))
