# expect: model=ExpertLayer rule=model+get_inputs phase=forward breaks=0 exit=0
"""A feed-forward of 64 experts in one tensor: 45 GB of weights for one layer."""

import torch
from torch import nn


class ExpertLayer(nn.Module):
    def __init__(self, experts=64, dim=4096, hidden=14_336, top=2):
        super().__init__()
        self.top = top
        self.router = nn.Linear(dim, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, dim, 2 * hidden, dtype=torch.bfloat16, device="meta"))
        self.down = nn.Parameter(torch.empty(experts, hidden, dim, dtype=torch.bfloat16, device="meta"))

    def forward(self, tokens):
        weight, index = self.router(tokens).softmax(-1).topk(self.top)
        tokens = tokens.to(torch.bfloat16)
        found = 0
        for slot in range(self.top):
            gate, value = torch.bmm(tokens[:, None], self.up[index[:, slot]]).chunk(2, -1)
            y = torch.bmm(nn.functional.silu(gate) * value, self.down[index[:, slot]])
            found = found + y.squeeze(1) * weight[:, slot, None]
        return found


model = ExpertLayer()


def get_inputs():
    return (torch.randn(16, 4096),)
