# expect: model=LightField rule=djinn_entry phase=encode/vision breaks=0 exit=0
"""A light field of six dimensions: views on a grid, each an image, through one three-dimensional convolution."""

import torch
from torch import nn


class LightField(nn.Module):
    def __init__(self):
        super().__init__()
        self.angular = nn.Conv3d(3, 8, (3, 3, 3), padding=1)
        self.mix = nn.Conv3d(8, 1, 1)

    def forward(self, field):
        B, U, V, C, H, W = field.shape
        rows = field.permute(0, 1, 3, 2, 4, 5).reshape(B * U, C, V, H, W)
        depth = self.mix(torch.relu(self.angular(rows)))
        return depth.view(B, U, V, H, W).softmax(2).mean((1, 2))


def djinn_entry():
    return LightField(), torch.rand(1, 3, 3, 3, 12, 16)
