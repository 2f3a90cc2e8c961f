# expect: model=SparseDecoder rule=class+get_inputs phase=prefill breaks=0 exit=0
"""A decoder whose feed-forwards are experts; every expert computes all tokens, the router weighs them."""

import torch
import torch.nn.functional as F
from torch import nn


class Experts(nn.Module):
    def __init__(self, dim, count, top):
        super().__init__()
        self.top = top
        self.router = nn.Linear(dim, count, bias=False)
        self.w1 = nn.Parameter(torch.randn(count, dim, 2 * dim) * 0.02)
        self.w2 = nn.Parameter(torch.randn(count, 2 * dim, dim) * 0.02)

    def forward(self, x):
        weight, index = self.router(x).softmax(-1).topk(self.top, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        dense = torch.zeros(*x.shape[:-1], self.w1.shape[0]).scatter(-1, index, weight)
        h = F.silu(torch.einsum("btd,edh->bteh", x, self.w1))
        return torch.einsum("bteh,ehd,bte->btd", h, self.w2, dense)


class SparseDecoder(nn.Module):
    def __init__(self, vocabulary=300, dim=48, heads=4, layers=3):
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Embedding(vocabulary, dim), nn.Linear(dim, vocabulary, bias=False)
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.experts = nn.ModuleList(Experts(dim, 4, 2) for _ in range(layers))

    def forward(self, ids):
        x = self.embed(ids)
        for qkv, out, experts in zip(self.qkv, self.out, self.experts, strict=True):
            q, k, v = qkv(F.layer_norm(x, x.shape[-1:])).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
            x = x + experts(F.layer_norm(x, x.shape[-1:]))
        return self.head(x)


def get_inputs():
    return torch.randint(300, (2, 16))
