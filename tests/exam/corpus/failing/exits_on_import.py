# expect: model=- rule=- phase=- breaks=- exit=4 says="sys.exit"
"""A script without a guard: it trains, and ends the process."""

import sys

import torch
from torch import nn

model = nn.Linear(2, 2)
x = torch.randn(4, 2)
loss = model(x).square().mean()
sys.exit(0 if loss.requires_grad else 1)  # here
