# expect: model=AlibiDecoder rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""ALiBi: no positions, but scores that fall with distance, at a slope for each head; parallel residuals."""

import torch
from torch import nn


class AlibiBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.fused = nn.Linear(dim, 3 * dim + 4 * dim)
        self.attention_out, self.mlp_out = nn.Linear(dim, dim), nn.Linear(4 * dim, dim)

    def forward(self, x, bias):
        C = x.shape[-1]
        qkv, hidden = self.fused(self.norm(x)).split([3 * C, 4 * C], -1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1)
        return x + self.attention_out((weights @ v).transpose(1, 2).flatten(2)) + self.mlp_out(hidden.relu())


class AlibiDecoder(nn.Module):
    def __init__(self, vocabulary=200, dim=64, heads=8, layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(AlibiBlock(dim, heads) for _ in range(layers))
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, heads + 1))
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, ids):
        place = torch.arange(ids.shape[1])
        distance = place[None, :] - place[:, None]
        bias = self.slopes[:, None, None] * distance
        bias = bias.masked_fill(distance > 0, float("-inf"))
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x)


def get_model():
    return AlibiDecoder()


def get_inputs():
    return torch.randint(200, (1, 24))
