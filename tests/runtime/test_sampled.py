"""Timing regions now and then: results are the graph's own, few calls are timed, and what is told is by region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from djinn_fx.runtime import sampled as module
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, Step
from djinn_fx.runtime.sampled import GAP, PAUSE, SAMPLES, WARM, Sampled, Times

PROGRAM = Program(
    arguments=1,
    slots=3,
    steps=(
        Step(region=0, inputs=(0,), outputs=(1,), frees=(0,)),
        Step(region=1, inputs=(1,), outputs=(2,), frees=(1,)),
    ),
    results=(2,),
)


class Adds:
    """A region: adds a number, and counts."""

    engine = "eager"

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        self.calls += 1
        value = args[0]
        args.clear()
        return [value + self.number]


class Moving(Adds):
    """A region that says itself which engine it is on."""

    engine = "openvino"


def sampled(first: Adds, second: Adds, told: list[Times]) -> Sampled:
    regions = [first, second]
    run = executable(PROGRAM, regions, {})
    return Sampled(run, PROGRAM, regions, {}, [lambda: first.engine, lambda: second.engine], told.append)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "start_thread", lambda work, name: work())


def call(run: Any, times: int) -> None:
    for value in range(times):
        args = [value]
        assert run(args) == [value + 3]
        assert not args


def test_every_call_is_answered_by_the_regions_once() -> None:
    first, second = Adds(1), Adds(2)
    call(sampled(first, second, []), 200)
    assert (first.calls, second.calls) == (200, 200)


def test_a_burst_is_told_by_region_and_engine() -> None:
    told: list[Times] = []
    run = sampled(Adds(1), Moving(2), told)
    call(run, WARM + GAP * (SAMPLES - 1))
    assert not told
    call(run, 1)
    (times,) = told
    assert {key: len(seconds) for key, seconds in times.items()} == {(0, "eager"): SAMPLES, (1, "openvino"): SAMPLES}
    assert all(second >= 0 for seconds in times.values() for second in seconds)


def test_the_next_burst_comes_late_and_the_one_after_it_later() -> None:
    told: list[Times] = []
    run = sampled(Adds(1), Adds(2), told)
    burst = GAP * (SAMPLES - 1)
    call(run, WARM + 1 + burst)
    call(run, PAUSE + burst - 1)
    assert len(told) == 1
    call(run, 1)
    assert len(told) == 2
    call(run, 2 * PAUSE + burst - 1)
    assert len(told) == 2
    call(run, 1)
    assert len(told) == 3


def test_a_region_that_fails_fails_as_it_would_and_the_next_call_works() -> None:
    class Fails(Adds):
        def __call__(self, args: list[Any]) -> Sequence[Any]:
            if args[0] == 1 + WARM:
                raise RuntimeError("no")
            return super().__call__(args)

    run = sampled(Adds(1), Fails(2), [])
    call(run, WARM)
    with pytest.raises(RuntimeError, match="no"):
        run([WARM])
    call(run, WARM)
