# expect: model=StepDecoder rule=get_model+get_inputs phase=decode breaks=0 exit=0
"""One token, with keys and values that come in, grow by one and go out again."""

import torch
import torch.nn.functional as F
from torch import nn


class StepDecoder(nn.Module):
    def __init__(self, vocabulary=200, dim=48, heads=4, layers=2):
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Embedding(vocabulary, dim), nn.Linear(dim, vocabulary)
        self.q, self.kv = (nn.ModuleList(nn.Linear(dim, n * dim) for _ in range(layers)) for n in (1, 2))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))

    def forward(self, token, past):
        x = self.embed(token)
        grown = []
        for q_of, kv_of, out, (keys, values) in zip(self.q, self.kv, self.out, past, strict=True):
            q = q_of(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            k, v = kv_of(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            grown.append((keys, values))
            x = x + out(F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).flatten(2))
        return self.head(x), grown


def get_model():
    return StepDecoder()


def get_inputs():
    past = [(torch.randn(2, 4, 33, 12), torch.randn(2, 4, 33, 12)) for _ in range(2)]
    return {"token": torch.tensor([[1], [2]]), "past": past}
