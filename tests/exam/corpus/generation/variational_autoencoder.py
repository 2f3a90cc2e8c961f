# expect: model=VAE rule=get_model+example_inputs phase=encode/vision breaks=0 exit=0
"""A convolutional variational autoencoder; the sample is drawn in forward."""

import torch
from torch import nn


class VAE(nn.Module):
    def __init__(self, latent=16):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.mean, self.log_variance = nn.Linear(64 * 49, latent), nn.Linear(64 * 49, latent)
        self.expand = nn.Linear(latent, 64 * 49)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x):
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decoder(self.expand(z).view(-1, 64, 7, 7)), mean, log_variance


def get_model():
    return VAE()


example_inputs = (torch.rand(3, 1, 28, 28),)
