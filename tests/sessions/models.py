"""Small models of every kind of cache, and managers whose every move the test makes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.sessions.caches.model import SessionModel
from djinn_fx.sessions.conversation import Answered, Conversation, Turn
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.disk import Disk
from djinn_fx.sessions.pools.moves import ManualMover
from djinn_fx.sessions.pools.store import Store

VOCABULARY = 256
KINDS = ("full", "window", "mixed", "int8", "linear", "recurrent", "encoder", "encoder-positions")
_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def build(kind: str) -> torch.nn.Module:
    """A model with random weights: what of the past it keeps is what its name says."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    makers: dict[str, Any] = {
        "full": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**_DECODER)),
        "int8": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**_DECODER)),
        "window": lambda t: t.MistralForCausalLM(t.MistralConfig(**_DECODER, sliding_window=24)),
        "mixed": lambda t: t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(**_DECODER, sliding_window=24, layer_types=["sliding_attention", "full_attention"])
        ),
        "linear": lambda t: t.Qwen3NextForCausalLM(
            t.Qwen3NextConfig(
                **_DECODER | {"num_hidden_layers": 4},
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=16,
                linear_value_head_dim=16,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=32,
                shared_expert_intermediate_size=32,
            )
        ),
        "recurrent": lambda t: t.Mamba2ForCausalLM(
            t.Mamba2Config(
                vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=16,
                n_groups=1, expand=2,
            )
        ),
        "encoder": lambda t: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
        ),
        "encoder-positions": lambda t: t.BartForConditionalGeneration(
            t.BartConfig(
                vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
            )
        ),
    }  # fmt: skip
    try:
        model: torch.nn.Module = makers[kind](transformers).eval()
    except AttributeError as missing:
        pytest.skip(f"this Transformers has no such model: {missing}")
    return model


@functools.cache
def looked_at(kind: str) -> SessionModel:
    """A model of a kind, once for all tests that change nothing of it."""
    return SessionModel.of(build(kind), quantised=kind == "int8")


@dataclass
class Clock:
    """Time that goes when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def manual(
    model: SessionModel,
    pages: int,
    host: int = 0,
    disk: int = 0,
    *,
    folder: Path | None = None,
    policy: Policy | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> tuple[SessionManager, ManualMover]:
    """A manager without threads, and who copies its pages when told to."""
    size = model.layout.page_bytes
    below = Disk(folder, disk, size) if folder is not None and disk else None
    store = Store(Arena(pages, size, kept=1), Arena(host, size) if host else None, below)
    mover = ManualMover(store)
    words = {"chunk": 32, "most": 8} | options
    made = SessionManager(
        model, store, lambda *_: mover, policy or Policy(), clock=clock or Clock(), threaded=False, **words
    )
    return made, mover


def tokens(count: int, seed: int) -> tuple[int, ...]:
    """So many of them."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, VOCABULARY, (count,), generator=generator).tolist())


def turn(manager: SessionManager, new: tuple[int, ...], count: int, **more: Any) -> Turn:
    """A turn that takes the most likely tokens."""
    return Turn(new, count, frozenset(), 0.0, None, manager.clock(), **more)


def go_on(
    manager: SessionManager, mover: ManualMover, asked: dict[str, tuple[int, ...]], count: int
) -> dict[str, Answered]:
    """Have sessions go on, each with new tokens, and make steps until all have answered."""
    turns = {}
    for key, new in asked.items():
        one = manager.conversations[key]
        encoder = torch.tensor([tokens(9 + len(key), 7)]) if manager.model.traits.encodes and not one.tokens else None
        turns[key] = turn(manager, new, count, encoder_ids=encoder)
        manager.submit(one, turns[key])
    run(manager, mover)
    return {key: asked_for.future.result(0) for key, asked_for in turns.items()}


def run(manager: SessionManager, mover: ManualMover, most: int = 10_000) -> None:
    """Steps and copies until nobody has anything to do."""
    for _ in range(most):
        made = manager.step()
        mover.run()
        if made is None and not any(one.turns for one in manager.conversations.values()):
            return
    raise AssertionError("sessions wait for ever")


def cached(manager: SessionManager, one: Conversation) -> torch.Tensor:
    """Bytes of everything that a session has in pages: its pages' contents in order, wherever they are."""
    store, table = manager.store, manager.store.table
    rows = []
    for page in one.holding:
        if table.device[page] >= 0:
            rows.append(store.device.memory[table.device[page]])
        elif table.host[page] >= 0:
            assert store.host is not None
            rows.append(store.host.memory[table.host[page]])
        else:
            assert store.disk is not None
            made = torch.empty(store.device.page_bytes, dtype=torch.uint8)
            store.disk.read(table.disk[page], made)
            rows.append(made)
    return torch.stack(rows)


def with_weights_of_its_own(kind: str) -> SessionModel:
    """As :func:`looked_at`, for tests that change weights."""
    return replace(looked_at(kind), module=(module := build(kind)), call=module)
