"""Comparisons beside the calls: what is right counts, what is wrong is compared again in a call, which decides."""

from __future__ import annotations

import dataclasses
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from djinn_fx import threads
from djinn_fx.guard import rehearsed as module
from djinn_fx.guard.later import LATER
from djinn_fx.guard.rehearsed import SOON, RehearsedRegion
from djinn_fx.reasons import ReasonKind
from tests.guard.faulty import Beside, Faulty, arguments, beside, eager, layer, region_of
from tests.waiting import LONG, until


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.Thread]]:
    """The threads that comparisons were given. They are over before the next test, as one at a time is made."""
    made: list[threading.Thread] = []

    def start(*args: Any, **others: Any) -> threading.Thread:
        thread = threads.start_thread(*args, **others)
        assert thread is not None
        made.append(thread)
        return thread

    monkeypatch.setattr(module, "start_thread", start)
    yield made
    for thread in made:
        thread.join(60)


def one(fault: Any = None, starts: int = 1, **others: Any) -> Beside:
    region = region_of(layer, *arguments())
    return beside(region, Faulty(region, fault, starts), mutated=(2,), kind=RehearsedRegion, **others)


def wrong(given: list[Any], _: Any) -> Sequence[Any]:
    x, w, cache = given
    y = torch.tanh(x @ w) + 1
    z = y * 2 + cache
    cache.copy_(z)
    return [y, z, y.argmax(-1), y.t()]


def call(of: Beside, seed: int = 0, rows: int = 4) -> bool:
    """Whether the answer and what is written are eager's."""
    args, own = arguments(rows, seed), arguments(rows, seed)
    expected = eager(of.region)(list(own))
    found = of.guard(list(args))
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip([*found, *args], [*expected, *own], strict=True))


def rehearse(of: Beside) -> None:
    args = arguments()
    before = [value.clone() for value in args]
    work = of.guard.rehearsal(args)
    assert work is not None
    work()
    assert all(map(torch.equal, args, before))


def test_after_a_rehearsal_no_call_is_compared() -> None:
    of = one()
    rehearse(of)
    assert of.guard.verdict is True
    eager_calls, runs = of.eager_calls[0], of.run.calls
    assert call(of)
    assert (of.eager_calls[0], of.run.calls, of.guard.compared) == (eager_calls, runs + 1, 0)


@pytest.mark.parametrize("awaited", [False, True])
def test_where_calls_wait_for_an_engine_they_wait_for_its_rehearsal(
    awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, seen = one(), list[bool]()
    monkeypatch.setattr(module, "let_others_go_first", lambda: seen.append(threads.is_awaited()))
    thread = threads.start_thread(lambda: rehearse(of), "makes it ready", awaited=awaited)
    assert thread is not None
    thread.join(LONG)
    assert of.guard.verdict is True
    assert seen == [awaited]


def test_it_is_handed_out_once_and_not_for_what_was_compared() -> None:
    of = one()
    assert of.guard.rehearsal(arguments()) is not None
    assert of.guard.rehearsal(arguments()) is None
    other = one()
    assert call(other)
    assert other.guard.rehearsal(arguments()) is None


def test_it_holds_copies_of_what_a_caller_may_write_to() -> None:
    of, args = one(), arguments()
    work = of.guard.rehearsal(args)
    assert work is not None
    for value in args:
        value.fill_(float("nan"))
    work()
    assert of.guard.verdict is True


def test_weights_that_somebody_writes_meanwhile_stay_as_they_are() -> None:
    """What an engine writes by mistake is put back in a call, where nobody else is at it; here it may be the user's."""
    region = region_of(layer, *arguments())
    region = dataclasses.replace(region, weights=(1,))
    args = arguments()

    def updates(given: list[Any], _: Any) -> Sequence[Any]:
        args[1].add_(1.0)
        return eager(region)(given)

    of = beside(region, Faulty(region, updates), mutated=(2,), kind=RehearsedRegion)
    wanted = args[1] + 2.0  # it is run twice, and once before
    work = of.guard.rehearsal(args)
    assert work is not None
    work()
    assert of.run.calls == 2
    assert torch.allclose(args[1], wanted)
    assert of.guard.verdict is None


def test_further_sizes_are_compared_in_the_call_that_own_ops_answer_anyway() -> None:
    region = region_of(layer, *arguments(), symbolic=True)

    def doubles(given: list[Any], _: Any) -> Sequence[Any]:
        return [result * 2 for result in eager(region)(given)]

    run = Faulty(region, doubles, when=lambda given: given[0].shape[0] == 6)
    of = beside(region, run, mutated=(2,), kind=RehearsedRegion)
    rehearse(of)
    assert of.guard.rehearsal(arguments(5)) is None
    assert all(call(of, rows=rows) for rows in (4, 5))
    assert (of.guard.compared, of.guard.verdict) == (1, True)
    assert call(of, rows=6)
    assert [reason.kind for reason in of.reasons] == [ReasonKind.QUARANTINED]


def test_what_is_wrong_in_a_rehearsal_is_decided_by_a_call() -> None:
    of = one(wrong)
    rehearse(of)
    assert of.guard.verdict is None
    assert not of.reasons
    assert call(of)
    assert [reason.kind for reason in of.reasons] == [ReasonKind.QUARANTINED]


def test_an_engine_that_fails_in_a_rehearsal_is_asked_again_in_a_call() -> None:
    def fails_once(given: list[Any], _: Any) -> Sequence[Any]:
        if of.run.calls == 1:
            raise RuntimeError("not now")
        return eager(of.region)(given)

    of = one(fails_once)
    rehearse(of)
    assert of.guard.verdict is None
    assert call(of)
    assert of.guard.verdict is True


def test_later_calls_are_compared_in_a_thread(started: list[threading.Thread]) -> None:
    of = one()
    assert all(call(of, seed) for seed in range(LATER[0] - 1))
    eager_calls, runs = of.eager_calls[0], of.run.calls
    assert call(of)
    assert (of.run.calls, of.guard.compared, len(started)) == (runs + 1, 1, 1)
    assert until(lambda: of.eager_calls[0] == eager_calls + 1)


def test_a_later_answer_that_is_wrong_has_the_next_call_compared(started: list[threading.Thread]) -> None:
    of = one(wrong, starts=LATER[0] + 1)  # the first call ran it twice
    for seed in range(LATER[0]):
        call(of, seed)
    started[0].join(60)
    assert not of.reasons
    assert call(of)
    assert [reason.kind for reason in of.reasons] == [ReasonKind.QUARANTINED]


def test_memory_that_is_handed_out_twice_has_a_call_compared(started: list[threading.Thread]) -> None:
    kept: list[torch.Tensor] = []

    def reuses(given: list[Any], _: Any) -> Sequence[Any]:
        results = list(eager(of.region)(given))
        kept.append(results[0])
        results[0] = kept[0].copy_(results[0])
        return results

    of = one(reuses, starts=LATER[0] + 1)
    for seed in range(LATER[0] + 1):
        call(of, seed)
    call(of)
    assert [reason.kind for reason in of.reasons] == [ReasonKind.QUARANTINED]


def test_who_was_right_in_an_earlier_process_answers_at_once_and_is_compared_soon(
    started: list[threading.Thread],
) -> None:
    of = one(passed=True)
    assert of.guard.rehearsal(arguments()) is None
    assert call(of)
    assert not of.eager_calls[0]
    for _ in range(SOON - 1):
        assert call(of)
    started[0].join(60)
    assert of.eager_calls[0] == 1


def test_one_call_at_a_time_is_kept_to_be_compared_and_the_others_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison holds all that a call was given and gave, such as a decoder's whole cache."""
    kept: list[Callable[[], None]] = []

    def start(work: Callable[[], None], name: str, **_: Any) -> threading.Thread:
        kept.append(work)
        return threading.current_thread()

    monkeypatch.setattr(module, "start_thread", start)
    first, second = one(passed=True), one(passed=True)
    for of in (first, second):
        assert all(call(of) for _ in range(SOON + 3))
    assert len(kept) == 1
    kept[0]()
    assert (first.eager_calls[0], second.eager_calls[0]) == (1, 0)
    assert call(second)
    assert len(kept) == 2
    kept[1]()
    assert second.eager_calls[0] == 1


def test_where_no_thread_can_be_started_the_next_call_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(module, "start_thread", lambda work, name, **_: asked.append(name))
    for of in (one(passed=True), one(passed=True)):
        assert all(call(of) for _ in range(SOON))
    assert len(asked) == 2


def test_what_a_later_comparison_took_is_given_back(
    started: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(module.CLOSER, "freed", lambda: given_back.append(threading.get_ident()))
    of = one(passed=True)
    for _ in range(SOON):
        assert call(of)
    started[0].join(60)
    assert len(given_back) == 1
    assert given_back[0] != threading.get_ident()


def test_a_parameter_may_be_swapped_while_its_values_are_rehearsed() -> None:
    """torch refuses that while an op of any thread uses the tensor; one over the same memory is no hindrance."""
    weight = torch.nn.Parameter(torch.randn(4, 4))
    lent = module._Call.of([torch.ones(4), weight], frozenset({1})).values[1]
    assert lent is not weight
    assert lent.data_ptr() == weight.data_ptr()
    assert lent._version == weight._version
    torch.utils.swap_tensors(weight, torch.nn.Parameter(torch.zeros(4, 4)))
    assert lent.any()
    assert not weight.any()


@pytest.mark.parametrize("others", [False, True])
def test_a_later_comparison_rests_three_times_as_long_as_it_computes_unless_others_wait_for_it(
    started: list[threading.Thread], monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    monkeypatch.setattr(module, "others_wait", lambda: others)
    clock, rests = [0.0], []

    def computing() -> float:
        clock[0] += 0.0005  # twice for each op: one takes half a millisecond
        return clock[0]

    monkeypatch.setattr(module, "time", types.SimpleNamespace(thread_time=computing, sleep=rests.append))
    of = one()
    assert all(call(of, seed) for seed in range(LATER[0]))
    started[0].join(LONG)
    ops = round(clock[0] / 0.001)
    assert ops > 2
    assert sum(rests) == pytest.approx(0 if others else module.REST * 0.0005 * ops, abs=module._SHORTEST_S)


def test_a_long_product_is_done_some_rows_at_a_time_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG_PRODUCT", 1)
    x, w = torch.randn(21, 16), torch.randn(16, 32)
    expected, rows = x @ w, []
    monkeypatch.setattr(
        module._WithPauses, "_one", lambda self, op, args, kwargs: rows.append(len(args[0])) or op(*args)
    )
    with module._WithPauses():
        found = torch.mm(x, w)
    assert rows[:3] == [8, 8, 5]
    torch.testing.assert_close(found, expected)
