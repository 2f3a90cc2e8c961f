# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""A linear layer, norm in groups, a pool as on images, and a bias of an odd shape."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, in_features, out_features, num_groups, bias_shape):
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.group_norm = nn.GroupNorm(num_groups, out_features)
        self.bias = nn.Parameter(torch.randn(bias_shape))

    def forward(self, x):
        x = self.group_norm(self.gemm(x))
        x = torch.min(x, dim=1, keepdim=True)[0]
        return x + self.bias


def get_inputs():
    return [torch.rand(128, 256)]


def get_init_inputs():
    return [256, 512, 8, (1, 512, 1, 1)]
