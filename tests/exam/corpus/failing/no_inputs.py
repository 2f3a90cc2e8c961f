# expect: model=- rule=- phase=- breaks=- exit=3 says="no example inputs for Wanting.forward\(left, right\)"
"""A model, and nothing to call it with."""

from torch import nn


class Wanting(nn.Module):
    def __init__(self):
        super().__init__()
        self.join = nn.Bilinear(4, 5, 6)

    def forward(self, left, right):
        return self.join(left, right)
