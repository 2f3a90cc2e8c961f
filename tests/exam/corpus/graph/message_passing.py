# expect: model=MPNN rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A message passing network for molecules: edge networks make matrices, a GRU cell updates, a sum a molecule."""

import torch
from torch import nn


class MPNN(nn.Module):
    def __init__(self, node=11, edge=4, hidden=16, steps=3):
        super().__init__()
        self.hidden, self.steps = hidden, steps
        self.embed = nn.Linear(node, hidden)
        self.edge = nn.Sequential(nn.Linear(edge, 32), nn.ReLU(), nn.Linear(32, hidden * hidden))
        self.update = nn.GRUCell(hidden, hidden)
        self.readout = nn.Sequential(nn.Linear(2 * hidden, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, nodes, edges, source, target, molecule):
        first = h = torch.relu(self.embed(nodes))
        matrix = self.edge(edges).view(-1, self.hidden, self.hidden)
        for _ in range(self.steps):
            message = torch.bmm(matrix, h[source][..., None]).squeeze(-1)
            h = self.update(torch.zeros_like(h).index_add(0, target, message), h)
        atoms = self.readout(torch.cat([h, first], -1))
        return torch.zeros(4, 1).index_add(0, molecule, atoms)


def get_model():
    return MPNN()


def get_inputs():
    return {
        "nodes": torch.randn(20, 11),
        "edges": torch.randn(44, 4),
        "source": torch.randint(20, (44,)),
        "target": torch.randint(20, (44,)),
        "molecule": torch.arange(20) // 5,
    }
