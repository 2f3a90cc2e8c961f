# expect: attr=model.encoder model=Encoder rule=part phase=encode/vision breaks=0 exit=0
"""Only a part of a model is asked about; its inputs are what it gets when the whole one runs."""

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(6, 24, 3, 2), nn.Conv2d(24, 24, 3, 2)

    def forward(self, x):
        return self.conv2(self.conv1(x).sigmoid()).sigmoid()


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(24, 2)

    def forward(self, image):
        return self.head(self.encoder(torch.cat([image, image.flip(-1)], 1)).mean((2, 3)))


model = Whole()
example_inputs = (torch.rand(1, 3, 20, 20),)
