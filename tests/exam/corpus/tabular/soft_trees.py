# expect: model=ObliviousTrees rule=model+get_inputs phase=forward breaks=0 exit=0
"""NODE: ensembles of differentiable oblivious trees; each leaf's weight is a product of soft decisions."""

import torch
from torch import nn


class ObliviousTrees(nn.Module):
    def __init__(self, features=12, trees=16, depth=4, out=2):
        super().__init__()
        self.depth = depth
        self.select = nn.Parameter(torch.randn(features, trees, depth))
        self.threshold = nn.Parameter(torch.randn(trees, depth))
        self.log_scale = nn.Parameter(torch.zeros(trees, depth))
        self.response = nn.Parameter(torch.randn(trees, out, 2**depth))
        codes = (torch.arange(2**depth)[:, None] >> torch.arange(depth)) & 1
        self.register_buffer("codes", torch.stack([codes, 1 - codes]).float())

    def forward(self, x):
        value = torch.einsum("bf,ftd->btd", x, self.select.softmax(0))
        right = ((value - self.threshold) * (-self.log_scale).exp()).mul(2).sigmoid()
        choices = torch.stack([right, 1 - right], -1)
        leaves = torch.einsum("btdc,cld->btld", choices, self.codes).prod(-1)
        return torch.einsum("btl,tol->bo", leaves, self.response)


model = ObliviousTrees()


def get_inputs():
    return [torch.randn(10, 12)]
