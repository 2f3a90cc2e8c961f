"""Small models with random weights for each kind of cache, and managers of their sessions."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from djinn_fx.sessions.caches.model import SessionModel
from djinn_fx.sessions.conversation import Turn
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.policy.named import policy_named
from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.moves import ThreadMover
from djinn_fx.sessions.pools.store import Store

KINDS = ("full", "window", "int8", "linear", "encoder")
VOCABULARY = 2048


def build(kind: str, width: int, layers: int) -> torch.nn.Module:
    """A model.

    Args:
        kind: what of the past it keeps.
        width: of its hidden states, a multiple of 64.
        layers: a multiple of 4.
    """
    torch.manual_seed(0)
    heads = width // 32
    decoder: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 32,
        "max_position_embeddings": 16384,
    }
    makers = {
        "full": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder)),
        "int8": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder)),
        "window": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**decoder, sliding_window=128)),
        "linear": lambda: transformers.Qwen3NextForCausalLM(
            transformers.Qwen3NextConfig(
                **decoder,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=32,
                linear_value_head_dim=32,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=width,
                shared_expert_intermediate_size=width,
            )
        ),
        "encoder": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=VOCABULARY, d_model=width, d_kv=32, d_ff=2 * width, num_layers=layers, num_heads=heads
            )
        ),
    }
    model: torch.nn.Module = makers[kind]().eval()
    return model


def managed(
    model: SessionModel, pages: int, host: int, policy: str, *, batch: int = 16, chunk: int = 64
) -> SessionManager:
    """A manager whose steps its caller makes, and whose pages move in threads."""
    size = model.layout.page_bytes
    store = Store(Arena(pages, size, model.device, kept=1), Arena(host, size) if host else None)
    return SessionManager(
        model,
        store,
        ThreadMover,
        policy_named(policy),
        chunk=chunk,
        most=batch,
        threaded=False,
    )


def tokens(count: int, seed: int) -> tuple[int, ...]:
    """So many random ones."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, VOCABULARY, (count,), generator=generator).tolist())


def turn(manager: SessionManager, key: str, new: tuple[int, ...], count: int) -> Turn:
    """A turn that takes the most likely tokens; an encoder's first one reads what the key's length says."""
    first = not manager.conversations[key].tokens
    encoder = torch.tensor([tokens(32, len(key))]) if manager.model.traits.encodes and first else None
    return Turn(new, count, frozenset(), 0.0, None, manager.clock(), encoder_ids=encoder)
