# expect: model=DeepLabHead rule=class+DeepLabHead.example_input_array phase=encode/vision breaks=0 exit=0
"""Atrous spatial pyramid pooling over a small backbone, upsampled to the image's size."""

import torch
import torch.nn.functional as F
from torch import nn


class Pyramid(nn.Module):
    def __init__(self, c_in, c_out, rates):
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(c_in, c_out, 1)])
        self.branches.extend(nn.Conv2d(c_in, c_out, 3, padding=r, dilation=r) for r in rates)
        self.pooled = nn.Conv2d(c_in, c_out, 1)
        self.project = nn.Conv2d((len(rates) + 2) * c_out, c_out, 1)

    def forward(self, x):
        found = [branch(x) for branch in self.branches]
        globally = self.pooled(x.mean((2, 3), keepdim=True))
        found.append(globally.expand(-1, -1, *x.shape[2:]))
        return F.relu(self.project(torch.cat(found, 1)))


class DeepLabHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1)
        )
        self.pyramid = Pyramid(64, 32, (2, 4, 6))
        self.classifier = nn.Conv2d(32, 21, 1)
        self.example_input_array = torch.rand(1, 3, 128, 96)

    def forward(self, image):
        logits = self.classifier(self.pyramid(self.backbone(image)))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
