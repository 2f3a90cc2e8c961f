# expect: model=DistMult rule=get_model+get_inputs phase=forward breaks=0 exit=0
"""A knowledge graph's triples scored by embeddings, against all possible tails."""

import torch
from torch import nn


class DistMult(nn.Module):
    def __init__(self, entities=500, relations=12, dim=40):
        super().__init__()
        self.entities, self.relations = nn.Embedding(entities, dim), nn.Embedding(relations, dim)
        self.bias = nn.Parameter(torch.zeros(entities))

    def forward(self, head, relation):
        return (self.entities(head) * self.relations(relation)) @ self.entities.weight.T + self.bias


def get_model():
    return DistMult()


def get_inputs():
    return torch.tensor([1, 5, 7]), torch.tensor([0, 3, 11])
