# expect: model=- rule=- phase=- breaks=- exit=4 says="No module named .*a_package_nobody_has"
"""A library that is not installed."""

import torch
from a_package_nobody_has import layers  # here
from torch import nn

model = nn.Sequential(nn.Linear(3, 3), layers.Magic())
x = torch.randn(1, 3)
