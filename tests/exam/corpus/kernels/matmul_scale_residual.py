# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""A product, a scale and a residual, as benchmarks of fused kernels have it."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, in_features, out_features, scaling_factor):
        super().__init__()
        self.matmul = nn.Linear(in_features, out_features)
        self.scaling_factor = scaling_factor

    def forward(self, x):
        x = self.matmul(x)
        original_x = x.clone().detach()
        return x * self.scaling_factor + original_x


batch_size = 4096
in_features = 1024
out_features = 1024
scaling_factor = 0.5


def get_inputs():
    return [torch.rand(batch_size, in_features)]


def get_init_inputs():
    return [in_features, out_features, scaling_factor]
