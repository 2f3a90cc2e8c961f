"""Engines that fail in ways nobody foresaw: a Reason and eager's answer, unless something may be half written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.entrant import CHANGED, Entrant, State
from djinn_fx.engines.base import Runner
from djinn_fx.engines.bound.region import BoundRegion
from djinn_fx.engines.bound.signature import Fed, Given, Signature
from djinn_fx.errors import EngineError, HalfWrittenError
from djinn_fx.guard.making import guarded
from djinn_fx.reasons import Reason, ReasonKind
from tests.forking import in_fork

#: What may come out of a runtime, or of our own code around it.
ERRORS = [
    EngineError("said so"),
    ValueError("a fault of ours"),
    RuntimeError("a fault of the runtime"),
    torch.OutOfMemoryError("no memory on the device"),
    MemoryError("no memory"),
    OSError(28, "No space left on device"),
    AssertionError(),
]


class Engine(Runner):
    """An engine that fails where it is told to."""

    partial = True

    def __init__(self, *, mutated: tuple[int, ...] = (), **fails: BaseException) -> None:
        self.mutated, self.fails, self.ready = mutated, fails, "work" not in fails and "prepare" not in fails
        self.held = threading.Event()
        self.held.set()

    def _maybe(self, where: str) -> None:
        if where in self.fails:
            raise self.fails[where]

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        self._maybe("run")
        return [args.pop() + 1]

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        return self(args) if self.ready else None

    def prepare(self, args: list[Any]) -> Callable[[], None] | None:
        self._maybe("prepare")
        return None if self.ready else self._work

    def _work(self) -> None:
        assert self.held.wait(60)
        self._maybe("work")
        self.ready = True


def eager(args: list[Any]) -> list[Any]:
    return [args.pop() + 1]


def contest(engine: Engine, *, waits: bool = True) -> tuple[Contest, Entrant]:
    entrant = Entrant("fails", engine)
    return Contest(label="layer", entrants=[entrant], reference=eager, waits=waits), entrant


def settled(entrant: Entrant) -> bool:
    """Wait until it is not being made ready any more."""
    with CHANGED:
        return CHANGED.wait_for(lambda: entrant.state is not State.PREPARING, timeout=60)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["run", "prepare", "work"])
@pytest.mark.parametrize("waits", [True, False])
def test_eager_answers_and_the_engine_is_out_with_a_reason(where: str, waits: bool, error: Exception) -> None:
    tried, entrant = contest(Engine(**{where: error}), waits=waits)
    for value in range(3):
        assert tried([value]) == [value + 1]
        assert settled(entrant)
    assert entrant.state is State.FAILED
    assert entrant.reason is not None
    assert entrant.reason.kind is ReasonKind.FALLBACK


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["run", "prepare", "work"])
def test_who_stops_the_program_stops_it(where: str, stop: type[BaseException]) -> None:
    tried, entrant = contest(Engine(**{where: stop()}))
    with pytest.raises(stop):
        tried([1])
    assert entrant.state is not State.FAILED


def test_what_may_be_half_written_is_told_to_the_caller_once() -> None:
    tried, entrant = contest(Engine(mutated=(0,), run=HalfWrittenError("in the middle")))
    with pytest.raises(HalfWrittenError):
        tried([1])
    assert entrant.state is State.FAILED
    assert tried([1]) == [2]


def test_an_error_after_which_nothing_was_written_is_none_though_the_engine_writes() -> None:
    tried, _ = contest(Engine(mutated=(0,), run=EngineError("before it wrote")))
    assert tried([1]) == [2]


def test_a_call_that_eager_refuses_too_says_nothing_against_the_engine() -> None:
    tried, entrant = contest(Engine(run=IndexError("index out of range")))
    with pytest.raises(TypeError):
        tried(["a text"])
    assert entrant.state is State.TRIAL


def test_an_engine_is_made_ready_once_however_many_ask() -> None:
    engine = Engine(work=ValueError("later"))
    engine.fails.clear()
    engine.held.clear()
    tried, entrant = contest(engine, waits=False)
    threads = [threading.Thread(target=tried, args=([value],)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entrant.state is State.PREPARING
    engine.held.set()
    assert settled(entrant)
    assert entrant.state is State.TRIAL


def test_an_engine_dropped_while_it_is_made_ready_stays_out() -> None:
    engine = Engine(work=ValueError("later"))
    engine.fails.clear()
    engine.held.clear()
    tried, entrant = contest(engine, waits=False)
    assert tried([1]) == [2]
    tried.drop("fails", Reason(kind=ReasonKind.QUARANTINED, detail="wrong elsewhere"))
    engine.held.set()
    with CHANGED:
        assert CHANGED.wait_for(lambda: engine.ready, timeout=60)
    assert tried([1]) == [2]
    assert entrant.state is State.FAILED


def test_in_a_forked_process_it_is_made_ready_anew() -> None:
    engine = Engine(work=ValueError("later"))
    engine.fails.clear()
    engine.held.clear()
    tried, entrant = contest(engine, waits=False)
    assert tried([1]) == [2]
    assert tried.pending

    def anew() -> bool:
        begun_anew = not tried.pending and entrant.state is State.TRIAL
        engine.held = threading.Event()
        engine.held.set()
        return begun_anew and tried([1]) == [2] and settled(entrant) and engine.ready and tried([1]) == [2]

    assert in_fork(anew)
    engine.held.set()


# Regions with weights in sessions

SIGNATURE = Signature(
    fed=(Fed(name="p0", place=0, dtype="float32", sizes=(2,)), Fed(name="p1", place=1, dtype="float32", sizes=(2,))),
    results=(Given(output=0, dtype="float32"),),
    mutated=((1, 0),),
    outputs=1,
)


class Session:
    """A session that fails, before it has written or after."""

    memory_bytes = 0

    def __init__(self, error: BaseException, writes: bool) -> None:
        self.error, self.writes = error, writes

    def run(self, args: list[Any]) -> list[Any]:
        if self.writes:
            args[1].add_(1)
        raise self.error


def bound(error: BaseException, *, writes: bool) -> BoundRegion:
    session = Session(error, writes)
    return BoundRegion(engine="fails", label="here", signature=SIGNATURE, weights=(), opener=lambda _: session)


@pytest.fixture
def args() -> list[Tensor]:
    return [torch.randn(2), torch.randn(2)]


def test_an_error_of_a_session_is_one_of_the_engine(args: list[Tensor]) -> None:
    with pytest.raises(EngineError) as caught:
        bound(ValueError("a fault"), writes=False)(args)
    assert not isinstance(caught.value, HalfWrittenError)
    assert len(args) == 2


def test_an_error_after_a_write_says_so(args: list[Tensor]) -> None:
    with pytest.raises(HalfWrittenError):
        bound(ValueError("a fault"), writes=True)(args)


def test_a_write_that_nobody_counts_may_have_been_done() -> None:
    with torch.inference_mode():
        args = [torch.randn(2), torch.randn(2)]
        with pytest.raises(HalfWrittenError):
            bound(ValueError("a fault"), writes=False)(args)


def test_an_interrupt_is_not_an_engines_error(args: list[Tensor]) -> None:
    with pytest.raises(KeyboardInterrupt):
        bound(KeyboardInterrupt(), writes=False)(args)


# The guard


@pytest.mark.parametrize(("writes", "answers"), [(False, True), (True, False)])
def test_the_guard_lets_eager_answer_unless_something_was_written(writes: bool, answers: bool) -> None:
    told: list[Reason] = []

    def eagerly(given: list[Tensor]) -> list[Tensor]:
        return [given[0] + given[1]]

    run = guarded(
        bound(ValueError("a fault"), writes=writes),
        eagerly,
        label="here",
        engine="fails",
        verify="off",
        mutated=(1,),
        on_quarantine=told.append,
        reproduce=None,
        high_precision=None,
    )
    x, y = torch.ones(2), torch.ones(2)
    if answers:
        torch.testing.assert_close(run([x, y])[0], torch.full((2,), 2.0))
    else:
        with pytest.raises(HalfWrittenError):
            run([x, y])
    assert [reason.kind for reason in told] == [ReasonKind.FALLBACK]
