# expect: model=Sequential rule=instance+x phase=forward breaks=0 exit=0
"""What is at module level was compiled already; the module inside of it is meant."""

import torch
from torch import nn

criterion = nn.MSELoss()
fast = torch.compile(nn.Sequential(nn.Linear(12, 24), nn.GLU(), nn.Linear(12, 1)))
x = torch.randn(6, 12)
