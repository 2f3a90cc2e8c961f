# expect: model=Model rule=Model+init+get_inputs phase=forward breaks=0 exit=0
"""A loss as the thing to make fast: anchor, positive, negative."""

import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.loss_fn = torch.nn.TripletMarginLoss(margin=margin)

    def forward(self, anchor, positive, negative):
        return self.loss_fn(anchor, positive, negative)


def get_inputs():
    return [torch.rand(1024, 512), torch.rand(1024, 512), torch.rand(1024, 512)]


def get_init_inputs():
    return [1.0]
