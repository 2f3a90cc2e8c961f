# expect: model=BayesianLinear rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""Weights drawn anew in each call, and the divergence from their prior."""

import torch
from torch import distributions, nn


class BayesianLinear(nn.Module):
    def __init__(self, c_in=10, c_out=4, draws=3):
        super().__init__()
        self.draws = draws
        self.mean = nn.Parameter(torch.randn(c_out, c_in) * 0.1)
        self.rho = nn.Parameter(torch.full((c_out, c_in), -3.0))

    def forward(self, x):
        posterior = distributions.Normal(self.mean, nn.functional.softplus(self.rho))
        weight = posterior.rsample((self.draws,))
        prior = distributions.Normal(0.0, 1.0)
        divergence = (posterior.log_prob(weight) - prior.log_prob(weight)).sum((1, 2)).mean()
        return torch.einsum("bi,soi->sbo", x, weight).softmax(-1).mean(0), divergence


def get_model():
    return BayesianLinear()


def get_inputs():
    return torch.randn(6, 10)
