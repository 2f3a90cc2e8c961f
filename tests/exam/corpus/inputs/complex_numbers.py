# expect: model=Beamformer rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Complex spectra of microphones: covariances, and the filter that keeps one direction."""

import torch
from torch import nn


class Beamformer(nn.Module):
    def __init__(self, microphones=4, bins=17):
        super().__init__()
        self.steer = nn.Parameter(torch.randn(bins, microphones, dtype=torch.complex64))
        self.loading = nn.Parameter(torch.tensor(0.1))

    def forward(self, spectrum):
        covariance = torch.einsum("bfmt,bfnt->bfmn", spectrum, spectrum.conj()) / spectrum.shape[-1]
        covariance = covariance + self.loading * torch.eye(spectrum.shape[2])
        weighted = torch.linalg.solve(covariance, self.steer[None, :, :, None])
        power = torch.einsum("fm,bfmo->bfo", self.steer.conj(), weighted)
        return torch.einsum("bfm,bfmt->bft", (weighted.squeeze(-1) / power).conj(), spectrum)


def get_model():
    return Beamformer()


def get_inputs():
    return torch.randn(1, 17, 4, 30, dtype=torch.complex64)
