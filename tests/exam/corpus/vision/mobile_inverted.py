# expect: model=MobileNet rule=model+x phase=encode/vision breaks=0 exit=0
"""Inverted residuals with squeeze and excitation, as phones run them."""

import torch
import torch.nn.functional as F
from torch import nn


class SqueezeExcite(nn.Module):
    def __init__(self, channels, reduced):
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(gate))))


def conv_bn_act(c_in, c_out, kernel, stride=1, groups=1, act=nn.Hardswish):
    layers = [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, act())


class InvertedResidual(nn.Module):
    def __init__(self, c_in, c_out, expansion, kernel, stride):
        super().__init__()
        hidden = c_in * expansion
        self.residual = stride == 1 and c_in == c_out
        self.body = nn.Sequential(
            conv_bn_act(c_in, hidden, 1),
            conv_bn_act(hidden, hidden, kernel, stride, groups=hidden),
            SqueezeExcite(hidden, max(8, hidden // 4)),
            conv_bn_act(hidden, c_out, 1, act=nn.Identity),
        )

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        plan = [(16, 16, 1, 3, 2), (16, 24, 4, 3, 2), (24, 24, 3, 3, 1), (24, 40, 3, 5, 2), (40, 40, 6, 5, 1)]
        self.stem = conv_bn_act(3, 16, 3, 2)
        self.blocks = nn.Sequential(*[InvertedResidual(*row) for row in plan])
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(40, 100))

    def forward(self, x):
        return self.classifier(self.blocks(self.stem(x)))


model = MobileNet()
x = torch.rand(1, 3, 96, 96)
