# expect: model=Warp rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""Numbers and words beside the tensor: an angle, a count, a mode, a flag."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Warp(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image, angle, repeats, mode="bilinear", *, align=False):
        c, s = math.cos(angle), math.sin(angle)
        matrix = torch.tensor([[c, -s, 0.0], [s, c, 0.0]]).expand(image.shape[0], 2, 3)
        grid = F.affine_grid(matrix, list(image.shape), align_corners=align)
        for _ in range(repeats):
            image = F.grid_sample(image, grid, mode=mode, align_corners=align)
        return self.conv(image)


def get_model():
    return Warp()


def get_inputs():
    return [(torch.rand(1, 3, 20, 20), 0.3, 2), {"mode": "nearest", "align": True}]
