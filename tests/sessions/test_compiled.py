"""Sessions over a compiled model: few shapes, so that nothing is compiled for a session."""

from __future__ import annotations

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


@pytest.mark.slow
def test_further_sessions_compile_nothing_and_get_the_same_tokens() -> None:
    compiled = torch.compile(shallow(), backend="djinn", options={"engine": "eager"})
    model = SessionModel.of(compiled)
    assert model.compiled
    manager, mover = manual(model, 16, host=400, chunk=16)
    plain, free = manual(SessionModel.of(shallow()), 400, chunk=16)
    graphs = []
    for number, sessions in enumerate((3, 5, 2, 7, 4, 6)):
        asked = {f"{number}-{place}": tokens(16 + 5 * place, 10 * number + place) for place in range(sessions)}
        for key in asked:
            manager.open(key)
            plain.open(key)
        found, wanted = (go_on(*pair, asked, 5) for pair in ((manager, mover), (plain, free)))
        for key, answered in found.items():
            assert answered.tokens == wanted[key].tokens
            assert answered.gaps == pytest.approx(wanted[key].gaps, abs=1e-4)
        graphs.append(len(djinn_fx.compilations()))
    assert graphs[3] == graphs[-1] <= 8, f"a session was compiled for: {graphs}"
    assert manager.store.counts.evicted > 0
