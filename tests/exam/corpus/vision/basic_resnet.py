# expect: model=CifarResNet rule=get_model+example_inputs phase=encode/vision breaks=0 exit=0
"""A residual network for 32 x 32 images, with a projection where the shape changes."""

import torch
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    def __init__(self, widths=(16, 32, 64), blocks=2, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        stages, c_in = [], widths[0]
        for index, width in enumerate(widths):
            for block in range(blocks):
                stages.append(BasicBlock(c_in, width, 2 if index and not block else 1))
                c_in = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, images):
        x = self.stages(torch.relu(self.bn(self.stem(images))))
        return self.fc(x.mean((2, 3)))


def get_model():
    return CifarResNet()


example_inputs = (torch.rand(4, 3, 32, 32),)
