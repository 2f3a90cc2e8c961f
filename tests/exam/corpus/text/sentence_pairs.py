# expect: model=Ranker rule=djinn_entry phase=encode/text breaks=0 exit=0
"""Late interaction (ColBERT): every query token finds its best passage token."""

import torch
import torch.nn.functional as F
from torch import nn


class Ranker(nn.Module):
    def __init__(self, vocabulary=300, dim=64, out=32):
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.attend = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.compress = nn.Linear(dim, out, bias=False)

    def encode(self, tokens):
        x = self.words(tokens)
        x = self.norm(x + self.attend(x, x, x, key_padding_mask=tokens == 0, need_weights=False)[0])
        return F.normalize(self.compress(x), dim=-1)

    def forward(self, query, passages):
        q, p = self.encode(query), self.encode(passages)
        likeness = torch.einsum("qid,pjd->qpij", q, p)
        return likeness.masked_fill((passages == 0)[None, :, None], -1).amax(-1).sum(-1)


def djinn_entry():
    return Ranker().eval(), (torch.randint(1, 300, (1, 8)), torch.randint(0, 300, (6, 30)))
