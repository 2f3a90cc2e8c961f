# expect: model=- rule=- phase=- breaks=- exit=3 says="no model found"
"""Constants and a module without forward."""

import torch
from torch import nn

LEARNING_RATE = 1e-3


class Settings(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = LEARNING_RATE


batch = torch.randn(2, 2)
