# expect: model=YoloHead rule=get_model+example_inputs phase=encode/vision breaks=0 exit=0
"""Anchors on a grid: raw outputs become boxes, objectness and classes."""

import torch
from torch import nn


class YoloHead(nn.Module):
    def __init__(self, classes=8, stride=8):
        super().__init__()
        self.classes, self.stride = classes, stride
        self.register_buffer("anchors", torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]))
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 3, 2, 1)
        )
        self.predict = nn.Conv2d(64, 3 * (5 + classes), 1)

    def forward(self, images):
        raw = self.predict(self.backbone(images))
        B, _, H, W = raw.shape
        raw = raw.view(B, 3, 5 + self.classes, H, W).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        grid = torch.stack([columns, rows], -1)
        centre = (raw[..., :2] * 2 - 0.5 + grid) * self.stride
        size = (raw[..., 2:4] * 2) ** 2 * self.anchors[:, None, None]
        return torch.cat([centre, size, raw[..., 4:]], -1).reshape(B, -1, 5 + self.classes)


def get_model():
    return YoloHead()


example_inputs = (torch.rand(1, 3, 64, 64),)
