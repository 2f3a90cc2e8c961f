# expect: model=Chatty rule=Model+get_inputs phase=forward breaks=1 exit=0
"""A print that was left from looking for a fault, of a tensor's mean."""

import torch
from torch import nn


class Chatty(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 20), nn.Linear(20, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        print("mean", x.mean())
        return self.second(x)


Model = Chatty


def get_inputs():
    return [torch.randn(3, 10)]
