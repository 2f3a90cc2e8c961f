# expect: model=GaussianProcess rule=model+get_inputs phase=forward breaks=0 exit=0
"""A Gaussian process: mean and variance at new points by a Cholesky factor."""

import torch
from torch import nn


class GaussianProcess(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale, self.log_noise = nn.Parameter(torch.zeros(())), nn.Parameter(torch.tensor(-2.0))

    def kernel(self, a, b):
        return (-0.5 * torch.cdist(a, b).square() / self.log_scale.exp() ** 2).exp()

    def forward(self, seen, values, new):
        noisy = self.kernel(seen, seen) + self.log_noise.exp() * torch.eye(len(seen))
        factor = torch.linalg.cholesky(noisy)
        cross = self.kernel(seen, new)
        mean = cross.T @ torch.cholesky_solve(values[:, None], factor)
        explained = torch.linalg.solve_triangular(factor, cross, upper=False)
        return mean.squeeze(1), 1 - explained.square().sum(0)


model = GaussianProcess()


def get_inputs():
    return {"seen": torch.rand(20, 2), "values": torch.randn(20), "new": torch.rand(7, 2)}
