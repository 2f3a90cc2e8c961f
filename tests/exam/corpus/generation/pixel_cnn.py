# expect: model=PixelCNN rule=model+get_inputs phase=encode/vision breaks=0 exit=0
"""PixelCNN: convolutions whose weights are masked so that no pixel sees those after it."""

import torch
import torch.nn.functional as F
from torch import nn


class MaskedConv(nn.Conv2d):
    def __init__(self, kind, *args, **kwargs):
        super().__init__(*args, **kwargs)
        height, width = self.kernel_size
        mask = torch.ones(height, width)
        mask[height // 2, width // 2 + (kind == "B") :] = 0
        mask[height // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PixelCNN(nn.Module):
    def __init__(self, width=32, depth=4, levels=16):
        super().__init__()
        self.first = MaskedConv("A", 1, width, 7, padding=3)
        self.layers = nn.ModuleList(MaskedConv("B", width, width, 3, padding=1) for _ in range(depth))
        self.out = nn.Conv2d(width, levels, 1)

    def forward(self, image):
        x = self.first(image)
        for layer in self.layers:
            x = x + F.relu(layer(x))
        return self.out(x).log_softmax(1)


model = PixelCNN()


def get_inputs():
    return [torch.rand(2, 1, 28, 28)]
