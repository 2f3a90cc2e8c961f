# expect: model=OnGpu rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""The author has a GPU and says so; that means the device which is described."""

import torch
from torch import nn

device = torch.device("cuda:0")


class OnGpu(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(18, 36)
        self.register_buffer("offset", torch.linspace(0, 1, 36, device="cuda"))

    def forward(self, x):
        return nn.functional.mish(self.inner(x) + self.offset).to("cuda").sum(-1)


def get_model():
    return OnGpu().cuda().to(device).eval()


def get_inputs():
    return torch.randn(4, 18).cuda()
