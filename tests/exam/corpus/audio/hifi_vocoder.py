# expect: model=Vocoder rule=model+example_inputs phase=encode/audio breaks=0 exit=0
"""HiFi-GAN's generator: mel frames upsampled to samples, with kernels of several sizes side by side."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class MultiReceptive(nn.Module):
    def __init__(self, width, kernels=(3, 5)):
        super().__init__()
        self.convs = nn.ModuleList(weight_norm(nn.Conv1d(width, width, k, padding=k // 2)) for k in kernels)

    def forward(self, x):
        return sum(x + conv(F.leaky_relu(x, 0.1)) for conv in self.convs) / len(self.convs)


class Vocoder(nn.Module):
    def __init__(self, mels=40, width=64, rates=(8, 4, 2)):
        super().__init__()
        self.first = weight_norm(nn.Conv1d(mels, width, 7, padding=3))
        self.up, self.mix = nn.ModuleList(), nn.ModuleList()
        for rate in rates:
            self.up.append(weight_norm(nn.ConvTranspose1d(width, width // 2, 2 * rate, rate, rate // 2)))
            width //= 2
            self.mix.append(MultiReceptive(width))
        self.last = weight_norm(nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, mel):
        x = self.first(mel)
        for up, mix in zip(self.up, self.mix, strict=True):
            x = mix(up(F.leaky_relu(x, 0.1)))
        return torch.tanh(self.last(F.leaky_relu(x)))


model = Vocoder()
mel = torch.randn(1, 40, 20)
example_inputs = {"mel": mel}
