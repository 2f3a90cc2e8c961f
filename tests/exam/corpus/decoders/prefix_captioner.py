# expect: model=Captioner rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""An image as a prefix of text: projected patches, then tokens, one causal decoder over both."""

import torch
import torch.nn.functional as F
from torch import nn


class Captioner(nn.Module):
    def __init__(self, vocabulary=300, dim=64, heads=4, layers=2):
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, dim, 16, 16)
        self.words = nn.Embedding(vocabulary, dim)
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, image, tokens):
        seen = self.patches(image).flatten(2).mT
        x = torch.cat([seen, self.words(tokens)], 1)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
        return self.head(x[:, seen.shape[1] :])


def get_model():
    return Captioner()


def get_inputs():
    return torch.rand(1, 3, 64, 64), torch.randint(300, (1, 12))
