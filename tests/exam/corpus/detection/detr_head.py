# expect: model=DETR rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0
"""DETR: learned queries read an encoded image and become a set of boxes."""

import torch
from torch import nn


class DETR(nn.Module):
    def __init__(self, dim=64, heads=4, queries=10, classes=5):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3), nn.ReLU(), nn.Conv2d(32, dim, 3, 4, 1))
        self.rows, self.columns = (nn.Parameter(torch.rand(16, dim // 2)) for _ in range(2))
        self.queries = nn.Parameter(torch.rand(queries, dim))
        self.transformer = nn.Transformer(dim, heads, 2, 2, 128, batch_first=True)
        self.classes, self.boxes = nn.Linear(dim, classes + 1), nn.Linear(dim, 4)

    def forward(self, images):
        features = self.backbone(images)
        B, _, H, W = features.shape
        rows = self.rows[:H, None].expand(-1, W, -1)
        columns = self.columns[None, :W].expand(H, -1, -1)
        positions = torch.cat([rows, columns], -1).flatten(0, 1)
        memory = features.flatten(2).mT + positions
        found = self.transformer(memory, self.queries.expand(B, -1, -1))
        return {"logits": self.classes(found), "boxes": self.boxes(found).sigmoid()}


def get_model():
    return DETR().eval()


def get_inputs():
    return {"images": torch.rand(1, 3, 96, 128)}
