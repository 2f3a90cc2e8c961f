# expect: model=EchoState rule=factory+data phase=forward breaks=0 exit=0
"""An echo state network: a fixed random reservoir, of which only the readout would be trained."""

import torch
from torch import nn


class EchoState(nn.Module):
    def __init__(self, inputs, reservoir, leak):
        super().__init__()
        self.leak = leak
        weights = torch.randn(reservoir, reservoir)
        self.register_buffer("recurrent", weights / reservoir**0.5 * 0.9)
        self.register_buffer("inward", torch.rand(reservoir, inputs) - 0.5)
        self.readout = nn.Linear(reservoir, inputs)

    def forward(self, series):
        state = series.new_zeros(self.recurrent.shape[0])
        states = []
        for x in series:
            state = (1 - self.leak) * state + self.leak * torch.tanh(self.inward @ x + self.recurrent @ state)
            states.append(state)
        return self.readout(torch.stack(states))


def create_model():
    return EchoState(inputs=3, reservoir=50, leak=0.3)


data = torch.randn(15, 3)
