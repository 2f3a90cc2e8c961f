# expect: model=Reader rule=get_model+get_inputs phase=encode/text breaks=0 exit=0
"""Answers in a passage: question and passage attend to each other, two heads point to start and end."""

import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, vocabulary=300, dim=48):
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.similarity = nn.Linear(3 * dim, 1, bias=False)
        self.model = nn.Sequential(nn.Linear(4 * dim, dim), nn.ReLU(), nn.Linear(dim, 2))

    def forward(self, passage, question):
        p, q = self.words(passage), self.words(question)
        a, b = p[:, :, None].expand(-1, -1, q.shape[1], -1), q[:, None].expand(-1, p.shape[1], -1, -1)
        s = self.similarity(torch.cat([a, b, a * b], -1)).squeeze(-1)
        to_question = s.softmax(-1) @ q
        to_passage = (s.amax(-1).softmax(-1)[:, None] @ p).expand_as(p)
        start, end = self.model(torch.cat([p, to_question, p * to_question, p * to_passage], -1)).unbind(-1)
        return start.log_softmax(-1), end.log_softmax(-1)


def get_model():
    return Reader()


def get_inputs():
    return torch.randint(300, (2, 50)), torch.randint(300, (2, 12))
