"""A class with ``get_module()``, as in torchbench."""

import torch
from torch import nn


class Model:
    def __init__(self, test, device, batch_size=None, extra_args=()):
        self.example_inputs = (torch.ones(batch_size or 2, 8, device=device),)
        self.module = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).to(device)
        self.test = test

    def get_module(self):
        return self.module, self.example_inputs
