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

from djinn_fx.saved import form
from djinn_fx.saved.contested import EnginesLater, OnEngines
from djinn_fx.saved.early import Early, early_key
from djinn_fx.settings.table import Settings
from djinn_fx.store.store import Store


def text(label: str = "whole graph", sizes: Sequence[int] = (2, 3), symbols: Sequence[Any] = ()) -> str:
    """As much of a kept graph as is looked at: one region with one input."""
    value = ["float32", list(sizes), [sizes[-1], 1], "cpu:0", "strided"]
    row = {"label": label, "competing": ["a", "b"], "form": {"symbols": list(symbols), "inputs": [[value, None]]}}
    return json.dumps({"table": [row], "program": {"arguments": 1, "steps": [[0, [0], [1], []]]}})


def joined(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)


class Restored:
    """Stands for what makes graphs of texts; each begins with what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.begun: list[Sequence[Any]] = []
        self.dropped = 0
        monkeypatch.setattr(form, "restore", self)

    def __call__(self, made_of: Any) -> EnginesLater:
        self.texts.append(json.dumps(made_of))
        restored = self

        class Later(EnginesLater):
            def begin(self, args: Sequence[Any]) -> None:
                restored.begun.append(list(args))

            def let_go(self) -> None:
                restored.dropped += 1

        def make() -> OnEngines:
            return (lambda args: ["engine"]), []

        return Later(lambda args: ["own"], make, waits=True)


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Restored:
    return Restored(monkeypatch)


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


def begun(store: Store, given: torch.Tensor = INPUT) -> Early:
    made = Early(store, KEY, [given])
    made.begin()
    joined("djinn opens early")
    return made


def test_the_text_that_torch_finds_is_made_once_and_early(store: Store, restored: Restored) -> None:
    noted(store, text())
    early = begun(store)
    assert restored.texts == [text()]
    assert [one.data_ptr() for (one,) in restored.begun] == [INPUT.data_ptr()]
    assert early.taken(text()) is not None
    early.end()
    assert not restored.dropped


def test_another_text_is_not_answered_by_it_and_is_what_the_next_process_begins_with(
    store: Store, restored: Restored
) -> None:
    noted(store, text("old"))
    early = begun(store)
    assert early.taken(text("new")) is None
    assert restored.dropped == 1
    joined("djinn notes a graph")
    begun(store)
    assert restored.texts == [text("old"), text("new")]


def test_what_torch_does_not_ask_for_is_let_go_of(store: Store, restored: Restored) -> None:
    noted(store, text())
    begun(store).end()
    assert restored.dropped == 1


def test_inputs_that_are_not_the_graph_s_own_open_nothing(store: Store, restored: Restored) -> None:
    noted(store, text())
    for given in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.float64), torch.ones(3, 2).T):
        begun(store, given)
    assert len(restored.texts) == 3
    assert not restored.begun


def test_graphs_whose_sizes_differ_are_not_noted(store: Store, restored: Restored) -> None:
    noted(store, text(symbols=["s0"]))
    early = begun(store)
    assert not restored.texts
    assert early.taken(text(symbols=["s0"])) is None


def test_who_cannot_be_made_early_is_left_to_whoever_asks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(made_of: Any) -> None:
        raise RuntimeError("an artefact is gone")

    noted(store, text())
    monkeypatch.setattr(form, "restore", fails)
    assert begun(store).taken(text()) is None


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
