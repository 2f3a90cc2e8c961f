# expect: model=- rule=- phase=- breaks=- exit=3 says="TorchScript"
"""A scripted module, which torch.compile cannot look into."""

import torch
from torch import nn


class Plain(nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1


scripted = torch.jit.script(Plain())
x = torch.randn(3)
