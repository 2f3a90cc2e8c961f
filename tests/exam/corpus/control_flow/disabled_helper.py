# expect: model=Normalised rule=model+x phase=forward breaks=1 exit=0
"""One helper must not be compiled; the author said so."""

import torch
from torch import nn


@torch.compiler.disable
def whitened(x):
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x) + 1e-3 * torch.eye(x.shape[1]))
    return centred @ vectors * values.rsqrt()


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.after(whitened(torch.relu(self.before(x))))


model = Normalised()
x = torch.randn(40, 6)
