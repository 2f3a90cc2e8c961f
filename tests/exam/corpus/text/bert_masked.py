# expect: model=MaskedLanguageModel rule=get_model+get_inputs phase=encode/text breaks=0 exit=0
"""A masked language model with padding: post-norm layers, tied output weights."""

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.dense = (nn.Linear(dim, dim) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.intermediate, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, bias):
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
        x = self.norm1(x + self.dense((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.output(F.gelu(self.intermediate(x))))


class MaskedLanguageModel(nn.Module):
    def __init__(self, vocabulary=500, dim=64, layers=3, heads=4, longest=64):
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.places, self.kinds = nn.Embedding(longest, dim), nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(layers))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, input_ids, attention_mask, token_type_ids):
        places = torch.arange(input_ids.shape[1])
        x = self.norm(self.words(input_ids) + self.places(places) + self.kinds(token_type_ids))
        bias = (1.0 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min
        for layer in self.layers:
            x = layer(x, bias)
        return x @ self.words.weight.T + self.bias


def get_model():
    return MaskedLanguageModel()


def get_inputs():
    ids = torch.arange(48).reshape(2, 24)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)}
