# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""Both operands come transposed; there is nothing to construct with."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, A, B):
        return torch.matmul(A.T, B.T)


def get_inputs():
    return [torch.rand(1024, 512), torch.rand(768, 1024)]


def get_init_inputs():
    return []
