# expect: model=MambaLM rule=get_model+get_inputs phase=prefill breaks=0 exit=0
"""A selective state space model over tokens: gates that depend on the input, a short causal convolution."""

import torch
import torch.nn.functional as F
from torch import nn


class MambaBlock(nn.Module):
    def __init__(self, dim, state=8, rank=4, kernel=4):
        super().__init__()
        inner = 2 * dim
        self.state, self.rank = state, rank
        self.norm = nn.RMSNorm(dim)
        self.inp, self.out = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, padding=kernel - 1, groups=inner)
        self.selected, self.step = nn.Linear(inner, rank + 2 * state, bias=False), nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))

    def scan(self, x):
        step, b, c = self.selected(x).split([self.rank, self.state, self.state], -1)
        step = F.softplus(self.step(step))
        decay = (step[..., None] * -self.log_a.exp()).exp()
        drive = (step * x)[..., None] * b[:, :, None]
        h, found = torch.zeros_like(drive[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + drive[:, t]
            found.append((h * c[:, t, None]).sum(-1))
        return torch.stack(found, 1) + x * self.skip

    def forward(self, x):
        inner, gate = self.inp(self.norm(x)).chunk(2, -1)
        inner = F.silu(self.conv(inner.mT)[..., : x.shape[1]].mT)
        return x + self.out(self.scan(inner) * F.silu(gate))


class MambaLM(nn.Module):
    def __init__(self, vocabulary=200, dim=24, depth=2):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.blocks = nn.Sequential(*[MambaBlock(dim) for _ in range(depth)])

    def forward(self, ids):
        return self.blocks(self.embed(ids)) @ self.embed.weight.T


def get_model():
    return MambaLM()


def get_inputs():
    return torch.randint(200, (1, 10))
