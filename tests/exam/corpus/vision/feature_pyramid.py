# expect: model=FeaturePyramid rule=model+example_input phase=encode/vision breaks=0 exit=0
"""A feature pyramid whose levels come back in a dict, as detectors want them."""

import torch
import torch.nn.functional as F
from torch import nn


class FeaturePyramid(nn.Module):
    def __init__(self, widths=(32, 64, 128), out=48):
        super().__init__()
        self.stages, c_in = nn.ModuleList(), 3
        for width in widths:
            self.stages.append(nn.Sequential(nn.Conv2d(c_in, width, 3, 2, 1), nn.BatchNorm2d(width), nn.SiLU()))
            c_in = width
        self.lateral = nn.ModuleList(nn.Conv2d(width, out, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in widths)

    def forward(self, image):
        levels, x = [], image
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        top = None
        found = {}
        for index in reversed(range(len(levels))):
            here = self.lateral[index](levels[index])
            top = here if top is None else here + F.interpolate(top, scale_factor=2.0, mode="nearest")
            found[f"p{index + 1}"] = self.smooth[index](top)
        return found


model = FeaturePyramid()
example_input = torch.rand(1, 3, 64, 64)
