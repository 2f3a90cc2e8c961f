"""What a trial found, on disk: found again, and only for the same work on the same machine and versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.dispatch.contests.decisions import Outcomes, decision_key, guess_key, recall, remember
from djinn_fx.store.store import Store

HASH = "a" * 64
BASE: dict[str, Any] = {
    "structural_hash": HASH,
    "weights": (1, 2),
    "sizes": (3,),
    "fingerprints": [{"engine": "packed", "torch": "2.13"}, {"engine": "eager"}],
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made, reason = Store.open(tmp_path / "cache", 10**9)
    assert made is not None, reason
    return made


def test_what_is_remembered_is_recalled(store: Store) -> None:
    key = decision_key(**BASE)
    assert recall(store, key) is None
    remember(store, key, "layer", "packed", {"packed": 0.001, "eager": 0.002})
    known = recall(store, key)
    assert known is not None
    assert (known.engine, known.seconds) == ("packed", {"packed": 0.001, "eager": 0.002})


def test_the_best_so_far_is_told_from_a_winner(store: Store) -> None:
    outcomes = Outcomes(store, decision_key(**BASE), "layer")
    outcomes.leading("packed", {})
    assert outcomes.known is not None
    assert (outcomes.known.engine, outcomes.known.over) == ("packed", False)
    outcomes.decided("eager", {"packed": 0.002, "eager": 0.001})
    assert (outcomes.known.engine, outcomes.known.over) == ("eager", True)


def test_the_best_so_far_is_what_a_later_process_guesses(store: Store) -> None:
    guess = guess_key(HASH, (1, 2))
    Outcomes(store, decision_key(**BASE), "layer", guess=guess).leading("packed", {})
    guessed = recall(store, guess)
    assert guessed is not None
    assert guessed.engine == "packed"


@pytest.mark.parametrize(
    "other",
    [
        {"structural_hash": "b" * 64},
        {"weights": (1,)},
        {"sizes": (4,)},
        {"fingerprints": [{"engine": "packed", "torch": "2.14"}, {"engine": "eager"}]},
        {"fingerprints": [{"engine": "packed", "torch": "2.13"}]},
    ],
)
def test_other_work_has_another_key(other: dict[str, Any]) -> None:
    assert decision_key(**{**BASE, **other}) != decision_key(**BASE)


def test_the_order_in_which_engines_are_named_does_not_matter() -> None:
    assert decision_key(**{**BASE, "fingerprints": BASE["fingerprints"][::-1]}) == decision_key(**BASE)


def test_other_threads_are_another_machine() -> None:
    threads = torch.get_num_threads()
    here = decision_key(**BASE)
    try:
        torch.set_num_threads(threads + 1)
        assert decision_key(**BASE) != here
    finally:
        torch.set_num_threads(threads)


def test_an_entry_that_is_none_is_ignored(store: Store) -> None:
    key = decision_key(**BASE)
    store.put(key, {"schema": 1, "engine": "inductor"}, b"x")
    assert recall(store, key) is None
    assert recall(None, key) is None
