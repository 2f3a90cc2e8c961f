# expect: model=DataclassNet rule=get_model+example_inputs phase=forward breaks=0 exit=0
"""A batch in a dataclass of the file's own."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Batch:
    features: torch.Tensor
    weight: torch.Tensor
    scale: float = 2.0


class DataclassNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(9, 3)

    def forward(self, batch):
        return self.linear(batch.features * batch.scale) * batch.weight[:, None]


def get_model():
    return DataclassNet()


example_inputs = (Batch(torch.randn(4, 9), torch.rand(4)),)
