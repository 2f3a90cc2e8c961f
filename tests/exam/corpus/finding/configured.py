# expect: model=ConfiguredNet rule=get_model+ConfiguredNet.dummy_inputs phase=encode/text breaks=0 exit=0
"""A model made from a config object, with its own dummy inputs, as libraries have it."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class NetConfig:
    vocabulary: int = 64
    hidden_size: int = 24
    num_layers: int = 2


class ConfiguredNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.hidden_size)
        self.layers = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_layers))

    @property
    def dummy_inputs(self):
        return {"input_ids": torch.arange(12).view(2, 6)}

    def forward(self, input_ids=None, inputs_embeds=None):
        x = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


def get_model(config=None):
    return ConfiguredNet(config or NetConfig())
