# expect: model=TextCNN rule=Model+init+get_inputs phase=encode/text breaks=0 exit=0
"""Sentences by convolutions of several widths over word vectors."""

import torch
import torch.nn.functional as F
from torch import nn


class TextCNN(nn.Module):
    def __init__(self, vocabulary, dim, widths=(3, 4, 5), classes=2):
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.convs = nn.ModuleList(nn.Conv1d(dim, 50, width) for width in widths)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(50 * len(widths), classes)

    def forward(self, tokens):
        x = self.words(tokens).mT
        return self.out(self.dropout(torch.cat([F.relu(conv(x)).amax(-1) for conv in self.convs], 1)))


Model = TextCNN


def get_inputs():
    return [torch.randint(0, 300, (4, 40))]


def get_init_inputs():
    return [300, 32]
