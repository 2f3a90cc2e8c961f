# expect: model=Tagger rule=model+get_inputs phase=encode/text breaks=0 exit=0
"""Tags by a conditional random field: the forward algorithm's partition sum over a window network's scores."""

import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self, vocabulary=200, dim=24, tags=5, window=2):
        super().__init__()
        self.window = window
        self.words = nn.Embedding(vocabulary, dim)
        self.emit = nn.Sequential(nn.Linear((2 * window + 1) * dim, 64), nn.Tanh(), nn.Linear(64, tags))
        self.transition = nn.Parameter(torch.randn(tags, tags))

    def forward(self, tokens, gold):
        x = nn.functional.pad(self.words(tokens), (0, 0, self.window, self.window))
        scores = self.emit(x.unfold(1, 2 * self.window + 1, 1).flatten(2))
        alpha = scores[:, 0]
        for t in range(1, scores.shape[1]):
            alpha = (alpha[:, :, None] + self.transition).logsumexp(1) + scores[:, t]
        path = scores.gather(2, gold[..., None]).sum((1, 2)) + self.transition[gold[:, :-1], gold[:, 1:]].sum(1)
        return alpha.logsumexp(1) - path


model = Tagger()


def get_inputs():
    return torch.randint(200, (2, 10)), torch.randint(5, (2, 10))
