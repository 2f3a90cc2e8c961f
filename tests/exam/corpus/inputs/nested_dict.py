# expect: model=Fusion rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Sensors in a nested dict: two cameras and a vector of the car's own state."""

import torch
from torch import nn


class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.camera = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.ego = nn.Linear(4, 16)
        self.steer = nn.Linear(2 * 32 + 16, 2)

    def forward(self, sensors):
        seen = [self.camera(image) for image in sensors["cameras"].values()]
        return {"control": self.steer(torch.cat([*seen, self.ego(sensors["ego"])], 1))}


def get_model():
    return Fusion()


def get_inputs():
    cameras = {"front": torch.rand(1, 3, 32, 48), "rear": torch.rand(1, 3, 32, 48)}
    return [{"cameras": cameras, "ego": torch.randn(1, 4)}]
