"""A graph whose engines are loaded beside its first call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from djinn_fx.errors import EngineError
from djinn_fx.reasons import ReasonKind
from djinn_fx.saved import contested
from djinn_fx.saved.contested import EnginesLater, OnEngines


def own(args: list[Any]) -> Sequence[Any]:
    args.clear()
    return ["own"]


def wait_for(later: EnginesLater) -> None:
    for thread in threading.enumerate():
        if thread.name == "djinn loads engines":
            thread.join(10)


def test_of_several_first_calls_one_loads_the_engines() -> None:
    made, begin = [], threading.Barrier(8)

    def make() -> OnEngines:
        made.append(1)
        return (lambda args: ["engine"]), []

    later = EnginesLater(own, make)

    def call() -> None:
        begin.wait()
        for _ in range(50):
            assert later([1])[0] in ("own", "engine")

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(call) for _ in range(8)]:
            one.result()
    wait_for(later)
    assert made == [1]
    assert later([1]) == ["engine"]
    assert not later.loading


def test_a_first_call_that_waits_is_the_engine_s_if_that_is_ready_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()

    def make() -> OnEngines:
        may_go_on.wait(10)
        return (lambda args: ["engine"]), []

    monkeypatch.setattr(contested, "PATIENCE_S", 0.05)
    slow = EnginesLater(own, make, waits=True)
    assert slow([1]) == ["own"]
    assert slow([1]) == ["own"]
    may_go_on.set()
    wait_for(slow)
    assert slow([1]) == ["engine"]
    monkeypatch.setattr(contested, "PATIENCE_S", 10.0)
    assert EnginesLater(own, make, waits=True)([1]) == ["engine"]


def test_who_waits_for_engines_that_cannot_be_loaded_is_answered_by_own_ops() -> None:
    def make() -> OnEngines:
        raise EngineError("the artefact is of another machine")

    later = EnginesLater(own, make, waits=True)
    assert later([1]) == ["own"]
    assert later.reason is not None


def test_engines_that_cannot_be_loaded_leave_the_graph_to_its_own_ops_with_a_reason() -> None:
    def make() -> OnEngines:
        raise EngineError("the artefact is of another machine")

    later = EnginesLater(own, make)
    assert later([1]) == ["own"]
    wait_for(later)
    assert later([1]) == ["own"]
    assert not later.loading
    assert later.reason is not None
    assert later.reason.kind is ReasonKind.FALLBACK


def test_after_a_fork_the_engines_are_loaded_anew() -> None:
    made = []

    def make() -> OnEngines:
        made.append(1)
        return (lambda args: ["engine"]), []

    later = EnginesLater(own, make)
    later._started = True  # as in the parent, where a thread was at it
    later.after_fork()
    assert later([1]) == ["own"]
    wait_for(later)
    assert made == [1]


def test_engines_that_were_begun_early_answer_the_first_call_and_are_loaded_once() -> None:
    made = []

    def make() -> OnEngines:
        made.append(1)
        return (lambda args: ["engine"]), []

    later = EnginesLater(own, make, waits=True)
    later.begin([1])
    wait_for(later)
    assert later([1]) == ["engine"]
    assert later([1]) == ["engine"]
    assert made == [1]
    patient = EnginesLater(own, make)  # its first call would not wait
    patient.begin([1])
    assert made == [1]
    assert patient([1]) == ["own"]
