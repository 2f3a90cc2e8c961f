# expect: model=Net rule=get_module phase=encode/vision breaks=0 exit=0
"""TorchBench's form: a class of the benchmark, whose get_module gives the module and its inputs."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 20, 5, 2), nn.Linear(20, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3))).log_softmax(1)


class Model:
    task = "classification"

    def __init__(self, test, device, batch_size=None, extra_args=()):
        self.device = device
        self.model = Net().to(device)
        self.example_inputs = (torch.rand(batch_size or 4, 1, 28, 28, device=device),)
        if test == "eval":
            self.model.eval()

    def get_module(self):
        return self.model, self.example_inputs

    def train(self):
        raise NotImplementedError

    def eval(self):
        return (self.model(*self.example_inputs),)
