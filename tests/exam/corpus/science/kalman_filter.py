# expect: model=KalmanFilter rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A Kalman filter with learned dynamics, over a batch of short tracks."""

import torch
from torch import nn


class KalmanFilter(nn.Module):
    def __init__(self, state=4, seen=2):
        super().__init__()
        dynamics = torch.eye(state)
        dynamics[:seen, seen:] = torch.eye(seen)
        self.dynamics = nn.Parameter(dynamics)
        self.register_buffer("observe", torch.eye(seen, state))
        self.log_q, self.log_r = nn.Parameter(torch.full((state,), -3.0)), nn.Parameter(torch.full((seen,), -1.0))

    def forward(self, track):
        B, T, _ = track.shape
        n = self.dynamics.shape[0]
        mean, covariance = torch.zeros(B, n, 1), torch.eye(n).expand(B, n, n)
        found = []
        for t in range(T):
            mean = self.dynamics @ mean
            covariance = self.dynamics @ covariance @ self.dynamics.T + torch.diag(self.log_q.exp())
            innovation = track[:, t, :, None] - self.observe @ mean
            spread = self.observe @ covariance @ self.observe.T + torch.diag(self.log_r.exp())
            gain = torch.linalg.solve(spread, self.observe @ covariance).mT
            mean = mean + gain @ innovation
            covariance = (torch.eye(n) - gain @ self.observe) @ covariance
            found.append(mean.squeeze(-1))
        return torch.stack(found, 1)


def get_model():
    return KalmanFilter()


def get_inputs():
    return torch.randn(3, 6, 2)
