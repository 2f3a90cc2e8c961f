"""A decoder's prefill and one decode step, each over two devices: how would it be placed, and is that worth it?

    python -m djinn_fx.explain examples/two_devices.py --option objective=throughput \
        --option 'devices={"cpu:0": {"cores": [0]}, "cpu:1": {"cores": [1]}}'
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

VOCABULARY, LAYERS, HIDDEN, HEADS = 4000, 8, 384, 6


def djinn_entry() -> tuple[LlamaForCausalLM, dict[str, dict[str, Any]]]:
    """The model, and its inputs in two scenarios: a prompt of 256 tokens, and the token after it."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
    )
    prompt = torch.arange(256).reshape(1, 256)
    return LlamaForCausalLM(config).eval(), {
        "prefill": {"input_ids": prompt, "past_key_values": DynamicCache()},
        "decode": {"input_ids": prompt[:, -1:], "past_key_values": filled(prompt.shape[1])},
    }


def filled(tokens: int) -> DynamicCache:
    """A cache of keys and values as a prompt of so many tokens leaves it."""
    cache = DynamicCache()
    for layer in range(LAYERS):
        keys, values = (torch.zeros(1, HEADS // 2, tokens, HIDDEN // HEADS) for _ in range(2))
        cache.update(keys, values, layer)
    return cache
