"""A BERT encoder with random weights over a padded batch: ``python -m djinn_fx.explain examples/encoder.py``."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertModel


def get_model() -> BertModel:
    """Six layers of width 384, as the small distilled encoders have."""
    config = BertConfig(
        vocab_size=8000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1536,
        max_position_embeddings=256,
    )
    return BertModel(config).eval()


def get_inputs() -> dict[str, torch.Tensor]:
    """Four sentences of 96 tokens at most; the shorter ones are padded."""
    lengths = torch.tensor([96, 71, 40, 12])
    mask = (torch.arange(96) < lengths[:, None]).long()
    return {"input_ids": torch.arange(4 * 96).reshape(4, 96), "attention_mask": mask}
