# expect: model=VQVAE rule=Model+get_inputs phase=encode/vision breaks=0 exit=0
"""VQ-VAE: each position takes its nearest code; gradients pass straight through."""

import torch
import torch.nn.functional as F
from torch import nn


class Quantiser(nn.Module):
    def __init__(self, codes, dim):
        super().__init__()
        self.codebook = nn.Embedding(codes, dim)

    def forward(self, z):
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        weight = self.codebook.weight
        distance = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ weight.T + weight.pow(2).sum(1)
        index = distance.argmin(1)
        chosen = self.codebook(index).view(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2)
        loss = F.mse_loss(chosen, z.detach()) + 0.25 * F.mse_loss(z, chosen.detach())
        return z + (chosen - z).detach(), index, loss


class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 16, 4, 2, 1))
        self.quantiser = Quantiser(64, 16)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(16, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1))

    def forward(self, image):
        z, index, loss = self.quantiser(self.encoder(image))
        return self.decoder(z), index, loss


Model = VQVAE


def get_inputs():
    return [torch.rand(2, 3, 32, 32)]
