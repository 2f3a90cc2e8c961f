# expect: model=FastText rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""fastText: the mean of word vectors in bags of different lengths, and one linear layer."""

import torch
from torch import nn


class FastText(nn.Module):
    def __init__(self, vocabulary=1000, dim=32, classes=4):
        super().__init__()
        self.bag = nn.EmbeddingBag(vocabulary, dim, mode="mean")
        self.out = nn.Linear(dim, classes)

    def forward(self, words, offsets):
        return self.out(self.bag(words, offsets))


def get_model():
    return FastText()


def get_inputs():
    return torch.arange(12), torch.tensor([0, 5, 7])
