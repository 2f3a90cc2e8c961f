"""Sessions over a compiled model: few shapes, so that nothing is compiled for a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import djinn_fx
from djinn_fx.sessions.caches.model import SessionModel
from tests.sessions.models import build, go_on, manual, tokens


def shallow() -> torch.nn.Module:
    """A model of one layer, whose graphs are compiled soon."""
    made = build("full")
    made.model.layers = made.model.layers[:1]  # type: ignore[union-attr,index,operator]
    made.config.num_hidden_layers = 1  # type: ignore[union-attr]
    return made


def held_against_a_plain_one(compiled: Any, compiles: Callable[[], int]) -> None:
    """Sessions come and go; their tokens are those of the model itself, and after a while nothing is compiled."""
    model = SessionModel.of(compiled)
    assert model.compiled
    manager, mover = manual(model, 16, host=400, chunk=16)
    plain, free = manual(SessionModel.of(shallow()), 400, chunk=16)
    graphs = []
    for number, sessions in enumerate((3, 5, 2, 7, 4, 6)):
        asked = {f"{number}-{place}": tokens(16 + 16 * (place % 2), 10 * number + place) for place in range(sessions)}
        for key in asked:
            manager.open(key)
            plain.open(key)
        found, wanted = (go_on(*pair, asked, 5) for pair in ((manager, mover), (plain, free)))
        for key, answered in found.items():
            assert answered.tokens == wanted[key].tokens
            assert answered.gaps == pytest.approx(wanted[key].gaps, abs=1e-4)
        graphs.append(compiles())
    assert 0 < graphs[3] == graphs[-1] <= 8, f"a session was compiled for: {graphs}"
    assert manager.store.counts.evicted > 0


def test_further_sessions_are_traced_for_no_more_and_get_the_same_tokens() -> None:
    traced = []

    def backend(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        traced.append(gm)
        return gm.forward

    held_against_a_plain_one(torch.compile(shallow(), backend=backend), lambda: len(traced))


@pytest.mark.exam
def test_further_sessions_compile_nothing() -> None:
    compiled = torch.compile(shallow(), backend="djinn", options={"engine": "eager"})
    held_against_a_plain_one(compiled, lambda: len(djinn_fx.compilations()))
