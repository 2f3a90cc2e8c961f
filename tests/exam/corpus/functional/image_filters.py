# expect: attr=canny_gradients model=canny_gradients rule=function+images phase=encode/vision breaks=0 exit=0
"""Edges by fixed filters: blur, Sobel, direction, and suppression of what is no ridge."""

import math

import torch
import torch.nn.functional as F

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def gaussian(size=5, sigma=1.0):
    axis = torch.arange(size) - size // 2
    line = (-(axis**2) / (2 * sigma**2)).exp()
    kernel = line[:, None] * line
    return kernel / kernel.sum()


def canny_gradients(images):
    blurred = F.conv2d(images, gaussian()[None, None], padding=2)
    gradient = F.conv2d(blurred, torch.stack([SOBEL, SOBEL.T])[:, None], padding=1)
    size = gradient.square().sum(1).sqrt()
    angle = torch.atan2(gradient[:, 1], gradient[:, 0])
    sector = ((angle / (math.pi / 4)).round() % 4).long()
    padded = F.pad(size, (1, 1, 1, 1))
    around = torch.stack([padded[:, 1 + y : 1 + y + size.shape[1], 1 + x : 1 + x + size.shape[2]] for y, x in SHIFTS])
    ahead = around.gather(0, sector[None]).squeeze(0)
    behind = around.gather(0, sector[None] + 4).squeeze(0)
    return size * (size > ahead) * (size > behind)


SHIFTS = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
images = torch.rand(1, 1, 32, 40)
