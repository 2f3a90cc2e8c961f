# expect: model=SASRec rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""The next item of a session: causal self-attention over the items so far."""

import torch
from torch import nn


class SASRec(nn.Module):
    def __init__(self, items=400, dim=48, longest=20, blocks=2):
        super().__init__()
        self.items, self.places = nn.Embedding(items, dim, padding_idx=0), nn.Embedding(longest, dim)
        self.attention = nn.ModuleList(nn.MultiheadAttention(dim, 2, batch_first=True) for _ in range(blocks))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in range(blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * blocks))

    def forward(self, session, candidates):
        T = session.shape[1]
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        x = self.items(session) * self.items.embedding_dim**0.5 + self.places(torch.arange(T))
        for i, (attend, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            x = self.norms[2 * i](x + attend(x, x, x, attn_mask=later, need_weights=False)[0])
            x = self.norms[2 * i + 1](x + feed(x))
        return (x[:, -1:] * self.items(candidates)).sum(-1)


def get_model():
    return SASRec()


def get_inputs():
    return torch.randint(1, 400, (4, 20)), torch.randint(1, 400, (4, 50))
