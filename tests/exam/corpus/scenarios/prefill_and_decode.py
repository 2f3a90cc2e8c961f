# expect: model=Cached rule=djinn_entry scenarios=prefill,decode phase=prefill,decode breaks=0 exit=0
"""One model, two ways to call it: a prompt, and one more token with the keys that the prompt left."""

import torch
import torch.nn.functional as F
from torch import nn


class Cached(nn.Module):
    def __init__(self, vocabulary=120, dim=40, heads=5):
        super().__init__()
        self.heads = heads
        self.embed, self.qkv = nn.Embedding(vocabulary, dim), nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, vocabulary)

    def forward(self, ids, past=None):
        q, k, v = self.qkv(self.embed(ids)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        return self.out(y.transpose(1, 2).flatten(2)), (k, v)


def djinn_entry():
    past = (torch.randn(1, 5, 24, 8), torch.randn(1, 5, 24, 8))
    prefill = {"ids": torch.randint(120, (1, 24))}
    return Cached(), {"prefill": prefill, "decode": {"ids": torch.tensor([[7]]), "past": past}}
