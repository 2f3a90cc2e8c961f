# expect: model=Siamese rule=get_model phase=encode/vision breaks=0 exit=0
"""Two images through one network; how alike they are."""

import torch
import torch.nn.functional as F
from torch import nn


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5), nn.PReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.PReLU(), nn.AdaptiveMaxPool2d(4)
        )
        self.embed = nn.Linear(64 * 16, 128)

    def branch(self, image):
        return F.normalize(self.embed(self.features(image).flatten(1)), dim=-1)

    def forward(self, left, right):
        a, b = self.branch(left), self.branch(right)
        return F.cosine_similarity(a, b), torch.cdist(a, b)


def get_model():
    return Siamese(), (torch.rand(8, 1, 28, 28), torch.rand(8, 1, 28, 28))
