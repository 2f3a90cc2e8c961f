"""One instance, and beside it a part, a second name, a loss and an activation; the input is a tensor ``x``."""

import torch
from torch import nn

part = nn.Linear(8, 4)
act = nn.ReLU()
net = nn.Sequential(part, nn.Linear(4, 2))
same = net
criterion = nn.CrossEntropyLoss()
x = torch.ones(3, 8)
