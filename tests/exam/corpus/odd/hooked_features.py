# expect: model=PerceptualLoss rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Features of inner layers are caught by hooks, as perceptual losses do it."""

import torch
from torch import nn


class PerceptualLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 20, 3), nn.ReLU(), nn.Conv2d(20, 20, 3))
        self.caught = {}
        for index in (1, 3):
            self.net[index].register_forward_hook(self.catch(index))

    def catch(self, index):
        def hook(module, args, output):
            self.caught[index] = output

        return hook

    def features(self, image):
        self.net(image)
        return [self.caught[index] for index in sorted(self.caught)]

    def forward(self, made, wanted):
        return sum((a - b).abs().mean() for a, b in zip(self.features(made), self.features(wanted), strict=True))


def get_model():
    return PerceptualLoss()


def get_inputs():
    return torch.rand(1, 3, 18, 18), torch.rand(1, 3, 18, 18)
