# expect: model=TwoTowers rule=get_model+get_inputs phase=encode/vision breaks=1 exit=0
"""CLIP in small: an image tower, a causal text tower read at its last token, and their likeness."""

import torch
import torch.nn.functional as F
from torch import nn


def encoder(dim, depth):
    layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class TwoTowers(nn.Module):
    def __init__(self, dim=64, vocabulary=300, context=16):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, 8)
        self.image_tower, self.text_tower = encoder(dim, 2), encoder(dim, 2)
        self.words, self.places = nn.Embedding(vocabulary, dim), nn.Parameter(torch.zeros(context, dim))
        self.register_buffer("causal", torch.full((context, context), float("-inf")).triu(1))
        self.scale = nn.Parameter(torch.tensor(2.65))

    def forward(self, pixels, tokens):
        image = self.image_tower(self.patches(pixels).flatten(2).mT).mean(1)
        text = self.text_tower(self.words(tokens) + self.places, mask=self.causal)
        text = text[torch.arange(len(text)), tokens.argmax(-1)]
        return self.scale.exp() * F.normalize(image) @ F.normalize(text).T


def get_model():
    return TwoTowers().eval()


def get_inputs():
    return {"pixels": torch.rand(2, 3, 32, 32), "tokens": torch.randint(300, (5, 16))}
