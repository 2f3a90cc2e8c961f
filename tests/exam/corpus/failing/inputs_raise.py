# expect: model=- rule=- phase=- breaks=- exit=4 says="FileNotFoundError"
"""Example inputs from a file that is not there."""

import torch
from torch import nn


def get_model():
    return nn.Sequential(nn.Linear(7, 7), nn.Hardtanh())


def get_inputs():
    return torch.load("no_such_folder/batch.pt", weights_only=True)  # here
