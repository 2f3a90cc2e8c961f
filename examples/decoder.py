"""A Transformers decoder with random weights, as a file for ``python -m djinn_fx.explain examples/decoder.py``."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 2000


def get_model(layers: int = 12, hidden: int = 256) -> LlamaForCausalLM:
    """The model; its configuration is Llama's, in small."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval()


def get_inputs() -> dict[str, torch.Tensor]:
    """One prompt of 128 tokens."""
    return {"input_ids": torch.arange(128).remainder(VOCABULARY).reshape(1, 128)}
