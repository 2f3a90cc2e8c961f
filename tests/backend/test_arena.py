"""The setting ``arena``: real models answer as they do without, and say what lies in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import djinn_fx
from djinn_fx.reasons import ReasonKind
from tests import families
from tests.backend.support import CUT, INDUCTOR, WHOLE, Noted, cutting, djinn, same, stacked

#: Eager's ops, cut after every few; what Inductor makes of a few more.
OPTIONS: dict[str, dict[str, Any]] = {
    "eager": {**CUT, "arena": True},
    "inductor": {**INDUCTOR, "engine": "inductor", "passes": cutting(10), "arena": True},
}


@pytest.mark.parametrize("name", ["llama/prefill", "bert/encode", "vit/encode"])
def test_models_of_transformers_answer_as_they_do_without(name: str) -> None:
    case = next(one for one in families.all_cases() if one.name.startswith(name))
    model, args, kwargs = case.make()
    without = djinn(model, {**OPTIONS["eager"], "arena": False})
    with torch.no_grad():
        wanted = without(*args, **kwargs)
        torch._dynamo.reset()
        compiled = djinn(model, OPTIONS["eager"])
        found = [compiled(*args, **kwargs) for _ in range(3)]
    for one in found:
        same(one, wanted, rtol=0, atol=0)
    arenas = djinn_fx.status(compiled).arenas
    assert arenas
    assert all(one.nbytes >= one.bound > 0 for one in arenas)
    assert "arena: " in str(djinn_fx.status(compiled))


@pytest.mark.slow
def test_what_inductor_makes_lies_in_it_too() -> None:
    model, x = stacked(layers=6, width=32), torch.randn(9, 32)
    compiled = djinn(model, OPTIONS["inductor"])
    with torch.no_grad():
        for _ in range(3):
            same(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    (arena,) = djinn_fx.status(compiled).arenas
    assert arena.values >= 4
    assert arena.outside == ()
    assert arena.nbytes == arena.bound < arena.together


def test_a_graph_in_one_piece_says_that_nothing_is_in_it() -> None:
    noted = Noted()
    compiled = djinn(stacked(), {**WHOLE, "arena": True})
    with torch.no_grad():
        compiled(torch.randn(5, 6))
    assert ReasonKind.OUTSIDE_ARENA in {reason.kind for reason in noted.reasons()}
    assert djinn_fx.status(compiled).arenas == ()


def test_sizes_that_differ_share_one_allocation() -> None:
    model = stacked(layers=6, width=32)
    compiled = djinn(model, OPTIONS["eager"], dynamic=True)
    for mode in (torch.no_grad, torch.inference_mode, torch.no_grad):
        for rows in (5, 50, 9):
            x = torch.randn(rows, 32)
            with mode():
                same(compiled(x), model(x))
    assert len({one.nbytes for one in djinn_fx.status(compiled).arenas}) == 1
