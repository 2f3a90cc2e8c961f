# expect: model=SpeechEncoder rule=get_model+get_inputs phase=encode/audio breaks=0 exit=0
"""Speech representations: strided convolutions over the waveform, then a transformer encoder."""

import torch
import torch.nn.functional as F
from torch import nn


class SpeechEncoder(nn.Module):
    def __init__(self, dim=64, layers=2):
        super().__init__()
        shapes = [(1, 32, 10, 5), (32, 32, 3, 2), (32, 32, 3, 2), (32, dim, 2, 2)]
        self.convs = nn.ModuleList(nn.Conv1d(i, o, k, s) for i, o, k, s in shapes)
        self.positions = nn.Conv1d(dim, dim, 31, padding=15, groups=8)
        layer = nn.TransformerEncoderLayer(dim, 4, 128, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, waveform):
        x = waveform[:, None]
        for conv in self.convs:
            x = F.gelu(conv(x))
        x = x + F.gelu(self.positions(x))
        return self.encoder(x.mT)


def get_model():
    return SpeechEncoder().eval()


def get_inputs():
    return torch.randn(2, 3200)
