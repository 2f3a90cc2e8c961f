# expect: model=TuringMachine rule=model+get_inputs phase=forward breaks=0 exit=0
"""A controller with an outside memory: addressing by content, erasing and adding, over a short sequence."""

import torch
import torch.nn.functional as F
from torch import nn


class TuringMachine(nn.Module):
    def __init__(self, bits=8, slots=16, width=10, hidden=32):
        super().__init__()
        self.slots, self.width, self.hidden = slots, width, hidden
        self.cell = nn.GRUCell(bits + width, hidden)
        self.read, self.write = nn.Linear(hidden, width + 1), nn.Linear(hidden, 3 * width + 1)
        self.out = nn.Linear(hidden + width, bits)

    @staticmethod
    def address(memory, key, strength):
        likeness = F.cosine_similarity(memory, key[:, None], dim=-1)
        return (F.softplus(strength) * likeness).softmax(-1)

    def forward(self, sequence):
        B = sequence.shape[0]
        memory, h = torch.full((B, self.slots, self.width), 1e-6), torch.zeros(B, self.hidden)
        seen, found = torch.zeros(B, self.width), []
        for t in range(sequence.shape[1]):
            h = self.cell(torch.cat([sequence[:, t], seen], -1), h)
            key, strength = self.read(h).split([self.width, 1], -1)
            seen = (self.address(memory, key, strength)[:, None] @ memory).squeeze(1)
            key, erase, add, strength = self.write(h).split([self.width] * 3 + [1], -1)
            where = self.address(memory, key, strength)[..., None]
            memory = memory * (1 - where * erase.sigmoid()[:, None]) + where * add[:, None]
            found.append(self.out(torch.cat([h, seen], -1)))
        return torch.stack(found, 1)


model = TuringMachine()


def get_inputs():
    return torch.rand(2, 6, 8)
