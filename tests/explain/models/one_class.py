"""One class that needs no arguments, made of others; the input is a tensor named like the parameter."""

import torch
from torch import nn


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2)

    def forward(self, x):
        return self.linear(x)


class Base(nn.Module):
    pass


class Block(nn.Module):
    def __init__(self, width) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return self.linear(x)


class Net(Base):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(8), Head()

    def forward(self, features):
        return self.head(self.block(features))


features = torch.ones(3, 8)
