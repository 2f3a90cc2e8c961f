# expect: model=Model rule=Model+get_inputs phase=forward breaks=0 exit=0
"""Divide by the norm of everything; there is no get_init_inputs at all."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return x / torch.norm(x, p="fro")


def get_inputs():
    return [torch.rand(16, 64, 128, 128)]
