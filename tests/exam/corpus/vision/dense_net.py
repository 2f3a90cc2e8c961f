# expect: model=DenseNet rule=instance+get_example_inputs phase=encode/vision breaks=0 exit=0
"""DenseNet: every layer reads all that came before it in its block."""

import torch
from torch import nn


class DenseLayer(nn.Module):
    def __init__(self, c_in, growth):
        super().__init__()
        self.bottleneck = nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, 4 * growth, 1, bias=False))
        self.conv = nn.Sequential(
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        )

    def forward(self, features):
        return self.conv(self.bottleneck(torch.cat(features, 1)))


class DenseBlock(nn.Module):
    def __init__(self, c_in, growth, layers):
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(c_in + i * growth, growth) for i in range(layers))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self, growth=12):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.block1 = DenseBlock(24, growth, 4)
        self.transition = nn.Sequential(nn.BatchNorm2d(72), nn.ReLU(), nn.Conv2d(72, 36, 1), nn.AvgPool2d(2))
        self.block2 = DenseBlock(36, growth, 4)
        self.fc = nn.Linear(84, 10)

    def forward(self, x):
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.fc(torch.relu(x).amax((2, 3)))


network = DenseNet().eval()


def get_example_inputs():
    return (torch.rand(2, 3, 32, 32),)
