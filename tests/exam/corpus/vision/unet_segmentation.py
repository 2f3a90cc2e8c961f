# expect: model=UNet rule=get_model+sample_inputs phase=encode/vision breaks=0 exit=0
"""U-Net: down, up, and the skips between; a mask of the image's size."""

import torch
import torch.nn.functional as F
from torch import nn


def double_conv(c_in, c_out):
    layers = []
    for first, second in ((c_in, c_out), (c_out, c_out)):
        layers += [nn.Conv2d(first, second, 3, padding=1), nn.GroupNorm(4, second), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, channels=(16, 32, 64), classes=3):
        super().__init__()
        self.down = nn.ModuleList()
        c_in = 1
        for c in channels:
            self.down.append(double_conv(c_in, c))
            c_in = c
        self.middle = double_conv(c_in, 2 * c_in)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for c in reversed(channels):
            self.up.append(nn.ConvTranspose2d(2 * c, c, 2, 2))
            self.merge.append(double_conv(2 * c, c))
        self.out = nn.Conv2d(channels[0], classes, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.middle(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.out(x)


def get_model():
    return UNet()


sample_inputs = torch.rand(1, 1, 64, 64)
