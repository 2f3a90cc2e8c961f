"""What counts as ready."""

from __future__ import annotations

from dataclasses import replace

import pytest

from djinn_fx.compiling.readiness import ModelStatus
from djinn_fx.dispatch.entrant import DispatchStatus, EntrantStatus, State
from djinn_fx.reasons import Reason, ReasonKind


def model(*states: State, retry_after_s: float | None = None, unplanned: int = 0) -> ModelStatus:
    entrants = tuple(
        EntrantStatus(
            engine=f"engine {place}", state=state, retry_after_s=retry_after_s if state is State.FAILED else None
        )
        for place, state in enumerate(states)
    )
    region = DispatchStatus(label="layer", repeats=12, engine="eager", executions=1, entrants=entrants)
    return ModelStatus(graphs=1, unplanned=unplanned, regions=(region,))


@pytest.mark.parametrize(
    ("states", "ready"),
    [
        ((State.READY,), True),
        ((State.READY, State.COLD), True),
        ((State.BUILDING, State.READY), False),
        ((State.COLD, State.READY), False),
        ((State.QUEUED,), False),
        ((State.FAILED,), False),
        ((State.FAILED, State.READY), True),
        ((State.BUILT_NOT_RUNNABLE,), True),
        ((State.BUILT_NOT_RUNNABLE, State.READY), True),
        ((State.BUILT_NOT_RUNNABLE, State.FAILED), False),
    ],
)
def test_ready(states: tuple[State, ...], ready: bool) -> None:
    assert model(*states).ready is ready


def test_a_failure_that_is_tried_again_is_not_the_end() -> None:
    assert not model(State.FAILED, State.READY, retry_after_s=3.0).ready


def test_a_graph_that_is_not_planned_or_cannot_be() -> None:
    assert not model(State.READY, unplanned=1).ready
    reason = Reason(kind=ReasonKind.FALLBACK, detail="it could not be planned")
    assert not ModelStatus(graphs=1, unplanned=0, regions=(), reasons=(reason,)).ready


def test_every_state_is_counted() -> None:
    assert model(State.READY, State.COLD).counts == {
        "cold": 1, "queued": 0, "building": 0, "ready": 1, "failed": 0, "built-not-runnable": 0
    }  # fmt: skip


def test_a_trial_is_told_as_one() -> None:
    trial = DispatchStatus(label="whole graph", engine="eager", entrants=(), decided=False, trial="3 of 20 calls")
    status = ModelStatus(graphs=1, unplanned=0, regions=(), contests=(trial,))
    assert str(status).startswith("ready: 1 trial under way\n")
    assert str(replace(status, contests=(replace(trial, decided=True),))).startswith("ready: nothing to build\n")


def test_text_says_what_is_not_as_it_should_be() -> None:
    text = str(model(State.FAILED, State.READY, retry_after_s=3.0))
    assert "not ready: 1 ready, 1 failed" in text
    assert "layer x12 runs on eager" in text
    assert "tried again in 3 s" in text
