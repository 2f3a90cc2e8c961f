# expect: model=VideoNet rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Minutes of video through three-dimensional convolutions: 10 GB of frames."""

import torch
from torch import nn


class VideoNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(3, 24, (3, 7, 7), (1, 2, 2), (1, 3, 3)),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.Conv3d(24, 48, (3, 3, 3), (2, 2, 2), 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(48, 400),
        )

    def forward(self, clips):
        return self.net(clips)


def get_model():
    return VideoNet()


def get_inputs():
    return {"clips": torch.rand(64, 3, 256, 224, 224)}
