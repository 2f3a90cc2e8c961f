# expect: model=Circuit rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A variational quantum circuit, simulated: rotations and controlled flips on a vector of amplitudes."""

import torch
from torch import nn


class Circuit(nn.Module):
    def __init__(self, qubits=4, layers=2):
        super().__init__()
        self.qubits = qubits
        self.angles = nn.Parameter(torch.rand(layers, qubits, 2))
        basis = torch.arange(2**qubits)
        bits = (basis[:, None] >> torch.arange(qubits)) & 1
        self.register_buffer("signs", (1 - 2 * bits).float())
        flips = [torch.where(bits[:, q] == 1, basis ^ (1 << ((q + 1) % qubits)), basis) for q in range(qubits)]
        self.register_buffer("flips", torch.stack(flips))

    def rotate(self, state, qubit, angle):
        c, s = torch.cos(angle / 2).to(torch.cfloat), torch.sin(angle / 2).to(torch.cfloat)
        gate = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
        shape = (state.shape[0], -1, 2, 2**qubit)
        return torch.einsum("...ab,nxbk->nxak", gate, state.view(shape)).reshape(state.shape)

    def forward(self, features):
        state = torch.zeros(features.shape[0], 2**self.qubits, dtype=torch.cfloat)
        state[:, 0] = 1
        phase = features @ self.signs.T
        state = state * torch.polar(torch.ones_like(phase), phase)
        for layer in self.angles:
            for q in range(self.qubits):
                state = self.rotate(state, q, layer[q, 0])
                state = state * torch.polar(torch.ones(2**self.qubits), layer[q, 1] * self.signs[:, q] / 2)
            for flip in self.flips:
                state = state[:, flip]
        return state.abs().square() @ self.signs


def get_model():
    return Circuit()


def get_inputs():
    return torch.rand(3, 4)
