"""What is opened while torch still looks for a graph: used for the very text it was made of, else let go of."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, symbolic_trace

from djinn_fx.engines.base import Runner
from djinn_fx.saved import early
from djinn_fx.saved.contested import EnginesLater, OnEngines
from djinn_fx.saved.early import Early, early_key
from djinn_fx.settings.table import Settings
from djinn_fx.store.store import Store
from tests.waiting import LONG


def text(label: str = "whole graph", sizes: Sequence[int] = (2, 3), symbols: Sequence[Any] = ()) -> str:
    """As much of a kept graph as is looked at: one region with one input."""
    value = ["float32", list(sizes), [sizes[-1], 1], "cpu:0", "strided"]
    row = {"label": label, "competing": ["a", "b"], "form": {"symbols": list(symbols), "inputs": [[value, None]]}}
    return json.dumps({"settings": {}, "table": [row], "program": {"arguments": 1, "steps": [[0, [0], [1], []]]}})


def found(*of: Any, **more: Any) -> tuple[str, Any]:
    """A text and its form."""
    return text(*of, **more), json.loads(text(*of, **more))


def joined(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)


class Opened(Runner):
    """Stands for the engine that won."""

    def __init__(self, args: Sequence[Any]) -> None:
        self.args, self.released = list(args), 0

    def release(self) -> None:
        self.released += 1


class Opener:
    """Stands for what opens it: tells what for, and may be made to take its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[str] = []
        self.opened: list[Opened] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        monkeypatch.setattr(early, "open_winner", self)

    def __call__(self, row: Any, args: Sequence[Any], settings: Settings) -> Opened:
        self.rows.append(row["label"])
        self.opened.append(Opened(args))
        self.may_go_on.wait(LONG)
        return self.opened[-1]


class Later(EnginesLater):
    """What is made of a text: tells what it was begun with."""

    def __init__(self) -> None:
        def make() -> OnEngines:
            return (lambda args: ["engine"]), []

        super().__init__(lambda args: ["own"], make, waits=True)
        self.begun: list[Sequence[Any]] = []

    def begin(self, args: Sequence[Any]) -> None:
        self.begun.append(list(args))


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    return Opener(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened, _ = Store.open(tmp_path)
    assert opened is not None
    return opened


KEY = "e" * 64
INPUT = torch.ones(2, 3)


def noted(store: Store, one: str) -> None:
    Early(store, KEY, [INPUT]).note(one)
    joined("djinn notes a graph")


def begun(store: Store, given: torch.Tensor = INPUT, *, wait: bool = True) -> Early:
    made = Early(store, KEY, [given])
    made.begin()
    if wait:
        joined("djinn opens early")
    return made


def test_the_engine_of_the_text_that_torch_finds_is_opened_early_and_kept(store: Store, opener: Opener) -> None:
    noted(store, text())
    one, made = begun(store), Later()
    assert [given.data_ptr() for (given,) in (only.args for only in opener.opened)] == [INPUT.data_ptr()]
    one.found(*found(), made)
    one.end()
    assert [given.data_ptr() for (given,) in made.begun] == [INPUT.data_ptr()]
    assert not opener.opened[0].released


def test_another_text_has_it_let_go_of_and_is_what_the_next_process_begins_with(store: Store, opener: Opener) -> None:
    noted(store, text("old"))
    one, made = begun(store), Later()
    one.found(*found("new"), made)
    one.end()
    assert opener.opened[0].released == 1
    assert not made.begun
    joined("djinn notes a graph")
    begun(store)
    assert opener.rows == ["old", "new"]


@pytest.mark.parametrize("asked", [False, True])
def test_what_torch_does_not_ask_for_is_let_go_of_also_if_it_is_still_being_opened(
    store: Store, opener: Opener, asked: bool
) -> None:
    noted(store, text())
    opener.may_go_on.clear()
    one = begun(store, wait=False)
    if asked:
        one.found(*found(), Later())
    one.end()
    opener.may_go_on.set()
    joined("djinn opens early")
    assert opener.opened[0].released == (0 if asked else 1)


def test_inputs_that_are_not_the_graph_s_own_open_nothing(store: Store, opener: Opener) -> None:
    noted(store, text())
    for given in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64), torch.ones(3, 2).T):
        one, made = begun(store, given), Later()
        one.found(*found(), made)
        assert not made.begun
    assert not opener.rows


def test_graphs_whose_sizes_differ_are_not_noted(store: Store, opener: Opener) -> None:
    noted(store, text(symbols=["s0"]))
    begun(store).found(*found(symbols=["s0"]), Later())
    joined("djinn notes a graph")
    begun(store)
    assert not opener.rows


def test_what_cannot_be_opened_early_is_left_to_whoever_makes_it_ready(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("an artefact is gone")

    noted(store, text())
    monkeypatch.setattr(early, "open_winner", fails)
    one, made = begun(store), Later()
    one.found(*found(), made)
    one.end()
    assert len(made.begun) == 1


def test_a_key_tells_graphs_and_inputs_apart() -> None:
    class Sum(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    def traced(factor: float) -> GraphModule:
        return symbolic_trace(Sum(factor))

    settings = Settings()
    with torch.no_grad():
        one = early_key(traced(2.0), [INPUT], settings, "here")
        assert one == early_key(traced(2.0), [torch.zeros(2, 3)], settings, "here")
        others = {
            early_key(traced(3.0), [INPUT], settings, "here"),
            early_key(traced(2.0), [INPUT.T], settings, "here"),
            early_key(traced(2.0), [INPUT.double()], settings, "here"),
            early_key(traced(2.0), [INPUT], settings, "there"),
        }
        assert len(others - {one, None}) == 4
    with torch.enable_grad():
        assert early_key(traced(2.0), [INPUT], settings, "here") is None
