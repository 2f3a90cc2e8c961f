"""``example_input_array`` on the model."""

import torch
from torch import nn


class LitNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)
        self.example_input_array = torch.ones(3, 8)

    def forward(self, x):
        return self.linear(x)
