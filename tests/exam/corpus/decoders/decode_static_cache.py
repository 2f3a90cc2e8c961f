# expect: model=CachedDecoder rule=get_model+get_inputs phase=decode breaks=0 exit=0
"""One token against a cache of fixed size that is written in place."""

import torch
import torch.nn.functional as F
from torch import nn


class CachedLayer(nn.Module):
    def __init__(self, dim, heads, longest):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("keys", torch.zeros(1, heads, longest, dim // heads))
        self.register_buffer("values", torch.zeros(1, heads, longest, dim // heads))

    def forward(self, x, position, mask):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(x)


class CachedDecoder(nn.Module):
    def __init__(self, vocabulary=300, dim=64, heads=4, layers=3, longest=128):
        super().__init__()
        self.embed, self.places = nn.Embedding(vocabulary, dim), nn.Embedding(longest, dim)
        self.layers = nn.ModuleList(CachedLayer(dim, heads, longest) for _ in range(layers))
        self.head = nn.Linear(dim, vocabulary)
        self.longest = longest

    def forward(self, token, position):
        mask = (torch.arange(self.longest) <= position[:, None])[None, None]
        x = self.embed(token) + self.places(position)
        for layer in self.layers:
            x = layer(x, position, mask)
        return self.head(x[:, -1])


def get_model():
    return CachedDecoder().eval()


def get_inputs():
    return {"token": torch.tensor([[5]]), "position": torch.tensor([17])}
