# expect: model=- rule=- phase=- breaks=- exit=3 says="BigNet" lists=BigNet,Flatten
"""A helper without arguments beside the model, which needs one: the model is meant, and cannot be made."""

import torch
from torch import nn


class Flatten(nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], -1)


class BigNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width * 36, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1))


def get_inputs():
    return torch.rand(1, 3, 8, 8)
