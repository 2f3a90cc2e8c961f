"""A decoder with a mixture of experts and random weights: ``python -m djinn_fx.explain examples/experts.py``."""

from __future__ import annotations

import torch
from transformers import MixtralConfig, MixtralForCausalLM


def get_model() -> MixtralForCausalLM:
    """Four layers, each with eight experts, of which two compute a token."""
    config = MixtralConfig(
        vocab_size=4000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=8,
        num_experts_per_tok=2,
        use_cache=False,
    )
    return MixtralForCausalLM(config).eval()


def get_inputs() -> dict[str, torch.Tensor]:
    """One prompt of 64 tokens."""
    return {"input_ids": torch.arange(64).reshape(1, 64)}
