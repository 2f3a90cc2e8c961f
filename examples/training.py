"""A step of training a GPT-2 with random weights: ``python -m djinn_fx.explain examples/training.py --training``."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def get_model() -> GPT2LMHeadModel:
    """Four layers; without dropout, so that two runs give one answer."""
    config = GPT2Config(
        vocab_size=4000,
        n_positions=256,
        n_embd=256,
        n_layer=4,
        n_head=4,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # else Transformers warns in forward what it takes, which is a graph break
    return model


def get_inputs() -> dict[str, torch.Tensor]:
    """Two sequences of 128 tokens, and as labels the same: the model shifts them by one."""
    tokens = torch.arange(2 * 128).reshape(2, 128)
    return {"input_ids": tokens, "labels": tokens}
