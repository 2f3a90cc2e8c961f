"""The exam's own bookkeeping; the exam itself is ``make exam``."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_fx.engines.base import Capability
from tests.exam import run
from tests.exam.pool import ask


def answer(name: str, **more: Any) -> dict[str, Any]:
    empty = {
        "skipped": {},
        "wrong": [],
        "crashed": [],
        "fell_back": [],
        "refused": {},
        "quarantined": [],
        "engines": {},
    }
    return {"name": name, "passed": 0, **empty, **more}


def test_passed_are_the_right_answers_of_the_engine_itself() -> None:
    answers = [
        answer("op:add", passed=3, refused={"no converter": 1}, engines={"openvino": 2, "eager": 1}),
        answer("op:mul", passed=2, quarantined=["op:mul sample 1: too far"], wrong=["op:mul sample 2: other numbers"]),
        answer("module:Linear", crashed=["module:Linear: the process ended with code -11"], skipped={"eager fails": 4}),
    ]
    counts = run.tally(answers)
    assert counts["right"] == 5
    assert counts["passed"] == 3
    assert {name: counts[name] for name in ("refused", "quarantined", "wrong", "crashed", "skipped")} == {
        "refused": 1, "quarantined": 1, "wrong": 1, "crashed": 1, "skipped": 4,
    }  # fmt: skip
    table = run.engine_table({"openvino": answers, "packed": "no such library"}).splitlines()
    assert table[1].split() == ["openvino", "3", "1", "1", "1", "1", "4", "openvino", "2,", "eager", "1"]
    assert "missing: no such library" in table[2]


def test_an_engine_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def capability(self) -> Capability:
            return Capability(can_build=False, can_run=False, why_not="pip install something")

    monkeypatch.setattr(run, "engine", lambda *_: Absent())
    assert run.missing("openvino") == "pip install something"
    assert run.missing("auto") is None


@pytest.mark.exam
def test_the_quick_form_has_questions_of_every_sort() -> None:
    names = run.questions(quick=True)
    assert {name.partition(":")[0] for name in names} == {"op", "module", "forward", "train", "generate"}


def test_parts_and_names_select() -> None:
    assert run._wanted("op:add", ["ops"])
    assert not run._wanted("module:Linear", ["ops"])
    assert run._wanted("module:Linear", ["Lin"])


@pytest.mark.exam
def test_who_answered_is_told() -> None:
    """An op, in a process of its own, with the engine that runs a region's own ops."""
    (found,) = ask(["op:add"], options={"engine": "eager", "cache_limit": "0"}, processes=1, samples=1)
    assert found["wrong"] == found["crashed"] == []
    assert found["passed"] == found["engines"]["eager"] == 2  # in place, too
    assert found["refused"] == {}
