"""A trial that nobody notices: how long it is, what it holds meanwhile, what is done in calls, and what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.contestants import ContestBySize
from djinn_fx.dispatch.contests.decisions import medians
from djinn_fx.dispatch.contests.own_ops import OwnOps
from djinn_fx.dispatch.contests.trial import CALLS, MOST_CALLS, compared
from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.engines.base import Runner
from djinn_fx.reasons import ReasonKind
from tests.dispatch.contests.test_contest import Clock, Late, Plain, clock, make, wait_for

__all__ = ["clock"]


class Copies:
    """How many copies of the weights there are, and who made them in which thread."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.makers: list[str] = []
        self.lock = threading.Lock()

    def made(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.makers.append(threading.current_thread().name)

    def gone(self) -> None:
        with self.lock:
            self.now -= 1


class Packing(Plain, Runner):
    """An engine that answers by a copy of the weights of its own."""

    partial = True

    def __init__(self, clock: Clock, seconds: float, copies: Copies) -> None:
        super().__init__(clock, seconds)
        self.copies, self.ready = copies, False

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        return self(args) if self.ready else None

    def prepare(self, args: Sequence[Any]) -> Callable[[], None] | None:
        return None if self.ready else self._pack

    def _pack(self) -> None:
        self.copies.made()
        self.ready = True

    @property
    def memory_bytes(self) -> int:
        return 1000 if self.ready else 0

    def release(self) -> None:
        if self.ready:
            self.ready = False
            self.copies.gone()


def field(clock: Clock, seconds: Sequence[float]) -> tuple[Contest, Copies]:
    """A contest between engines that take so long, and their copies."""
    copies = Copies()
    entrants = [Entrant(str(place), Packing(clock, took, copies)) for place, took in enumerate(seconds)]
    return make(clock, entrants, waits=False)[0], copies


def settle(contest: Contest, most: int = 200) -> int:
    """Call until it is decided, with time between calls for what is done beside them; how many calls that took."""
    for value in range(most):
        if contest.decided:
            return value
        wait_for(lambda: not contest.pending)
        assert list(contest([value])) == [value + 1]
    raise AssertionError("it was not decided")


@pytest.mark.parametrize("engines", [1, 2, 3, 4, 5, 7])
def test_it_ends_within_twenty_timed_calls_and_the_winner_serves_by_call_forty(clock: Clock, engines: int) -> None:
    contest, copies = field(clock, [1.0 + 0.1 * ((place * 3) % engines) for place in range(engines)])
    assert settle(contest) <= MOST_CALLS
    assert sum(len(one.seconds) for one in contest.entrants) <= CALLS
    assert (contest.engine, copies.now) == ("0", 1)


class Compared(Packing):
    """Its answers are compared, one in each call, which takes eager's time as well."""

    def __init__(self, clock: Clock, seconds: float, copies: Copies) -> None:
        super().__init__(clock, seconds, copies)
        self.compared = 0
        self.compared_s: float | None = None

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        self.compared, self.compared_s = self.compared + 1, self.seconds
        self.clock.now += 10.0
        return super().__call__(args)


def test_what_an_engine_took_of_a_call_that_was_compared_counts(clock: Clock) -> None:
    """A decoder's every step has another length, and each of the first ones is compared."""
    copies = Copies()
    entrants = [Entrant("a", Compared(clock, 1.2, copies)), Entrant("b", Compared(clock, 1.0, copies))]
    contest, _ = make(clock, [*entrants, Entrant("eager", Plain(clock, 2.0))], waits=False)
    settle(contest)
    assert contest.engine == "b"
    assert medians(contest.entrants) == {"a": 1.2, "b": 1.0, "eager": pytest.approx(2.0)}


def test_a_call_beside_which_another_graphs_engine_is_made_ready_is_not_timed(clock: Clock) -> None:
    begun, over = threading.Event(), threading.Event()
    other = Entrant("other", Plain(clock, 1.0))
    other.prepare(lambda: (begun.set(), over.wait(60))[0])
    assert begun.wait(60)
    contest, _ = make(clock, [Entrant("a", Plain(clock, 9.0)), Entrant("b", Plain(clock, 1.0))])
    for value in range(6):
        contest([value])
    assert not medians(contest.entrants)
    over.set()
    wait_for(lambda: not other.pending)
    settle(contest)
    assert contest.engine == "b"


def test_it_ends_after_five_seconds_of_calls(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_fx.dispatch.contests.trial.SECONDS", 5.0)
    contest, _ = field(clock, [1.0, 1.1, 1.2])
    settle(contest)
    assert sum(sum(one.seconds) for one in contest.entrants) <= 5.0 + 1.2
    assert contest.engine == "0"


def test_who_wins_by_far_in_two_answers_teaches_something(clock: Clock) -> None:
    told: list[Any] = []
    entrants = [Entrant("a", Plain(clock, 9.0)), Entrant("b", Plain(clock, 1.0))]
    contest, _ = make(clock, entrants, timed=told.append)
    settle(contest)
    assert contest.engine == "b"
    assert told == [{"b": pytest.approx((1.0, 1.0))}]


def test_who_was_not_tried_by_then_is_not_and_that_is_told(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_fx.dispatch.contests.trial.CALLS", 4)
    contest, _ = field(clock, [1.0, 1.1, 0.5])
    settle(contest)
    last = contest.entrants[-1]
    assert (last.state, last.answers, contest.engine) == (State.BEATEN, 0, "0")
    assert last.reason is not None
    assert last.reason.kind is ReasonKind.ENGINE_REFUSED


@pytest.mark.parametrize("seconds", [(1.0, 1.1, 1.2, 1.3), (1.3, 1.2, 1.1, 1.0), (9.0, 1.0, 5.0, 0.9)])
def test_no_more_than_one_further_copy_of_the_weights_and_one_when_it_is_over(
    clock: Clock, seconds: Sequence[float]
) -> None:
    contest, copies = field(clock, seconds)
    settle(contest)
    assert (copies.most, copies.now) == (2, 1)
    assert contest.engine == str(seconds.index(min(seconds)))
    assert len(copies.makers) == len(seconds), "nobody packs twice"


def test_where_memory_is_short_fewer_take_part_and_that_is_told(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_fx.dispatch.contests.trial.available_bytes", lambda: 1200)
    copies = Copies()
    names = ["openvino", "packed", "eager"]
    contest, _ = make(clock, [Entrant(name, Packing(clock, 1.0, copies)) for name in names], waits=False)
    settle(contest)
    refused = contest.entrants[1]
    assert (refused.state, refused.answers, copies.most) == (State.BEATEN, 0, 2)
    assert refused.reason is not None
    assert refused.reason.kind is ReasonKind.ENGINE_REFUSED
    assert contest.entrants[2].answers, "one that keeps no weights takes part"


def test_nothing_is_packed_in_a_call_but_the_first_where_callers_wait(clock: Clock) -> None:
    copies = Copies()
    runs = [Packing(clock, 1.0 + 0.1 * place, copies) for place in range(3)]
    contest, reference = make(clock, [Entrant(str(place), run) for place, run in enumerate(runs)], waits=True)
    settle(contest)
    mine = threading.current_thread().name
    assert [name == mine for name in copies.makers] == [True, False, False]
    runs[0].release()  # as where weights were written: the copy is stale
    before = reference.calls
    assert list(contest([7])) == [8]
    assert reference.calls == before + 1
    wait_for(lambda: runs[0].ready)
    assert mine not in copies.makers[1:]


def test_an_engine_beaten_while_it_is_made_ready_lets_go(clock: Clock) -> None:
    copies, held = Copies(), threading.Event()

    class Slow(Packing):
        def _pack(self) -> None:
            assert held.wait(60)
            super()._pack()

    slow = Entrant("slow", Slow(clock, 1.0, copies))
    contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), slow])
    for value in range(4):
        contest([value])
    assert slow.state is State.PREPARING
    slow.state = State.BEATEN
    held.set()
    wait_for(lambda: not slow.pending)
    assert copies.now == 0


def test_status_says_how_far_it_is(clock: Clock) -> None:
    contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), Entrant("b", Plain(clock, 1.1))])
    for value in range(9):
        contest([value])
    assert (contest.status().trial, contest.status().decided) == (f"7 of {CALLS} calls", False)
    settle(contest)
    assert (contest.status().trial, contest.status().decided) == ("", True)


class Known(Entrant):
    """An engine whose time is known without a trial."""

    least_s = 2.0


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 0), (1.4, 3)])
def test_who_is_known_to_be_slow_need_not_answer(clock: Clock, seconds: float, calls: int) -> None:
    own = Plain(clock, 2.2)
    contest, _ = make(clock, [Entrant("a", Plain(clock, seconds)), Known("eager", own)])
    settle(contest)
    assert (contest.engine, own.calls) == ("a", calls)
    assert medians(contest.entrants) == {"a": pytest.approx(seconds), "eager": pytest.approx(2.2 if calls else 2.0)}


def test_own_ops_are_timed_wherever_they_run(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr("djinn_fx.dispatch.contests.own_ops.time", clock)
    run = Plain(clock, 3.0)
    own = OwnOps(run)
    for value, run.seconds in ((1, 3.0), (2, 2.0), (3, 4.0)):
        assert list(own([value])) == [value + 1]
    assert (own.runs, own.least_s, own.direct) == (3, 2.0, run)


def test_an_engine_that_never_answers_does_not_hold_it_up(clock: Clock) -> None:
    class Silent(Runner):
        partial = True

        def attempt(self, args: list[Any]) -> None:
            return None

    contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), Entrant("silent", Silent())])
    assert settle(contest) <= MOST_CALLS + 2
    assert contest.engine == "a"


def test_one_that_came_later_is_tried_in_as_few_calls(clock: Clock) -> None:
    late = Late("late", Plain(clock, 0.5))
    contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), Entrant("b", Plain(clock, 1.1)), late])
    settle(contest)
    late.here = True
    assert not contest.decided, "it is about to be tried"
    for value in range(16 + CALLS):
        contest([value])
    assert (contest.engine, contest.decided) == ("late", True)
    assert len(late.seconds) <= CALLS // 2


def test_a_few_slow_calls_do_not_cost_the_winner_its_place(clock: Clock) -> None:
    """On a busy machine a duel of three calls each was won by one that is 20 % slower."""
    first = Plain(clock, 1.0)
    late = Late("late", Plain(clock, 1.2))
    contest, _ = make(clock, [Entrant("a", first), late])
    settle(contest)
    late.here = True
    winner = contest.entrants[0]
    for value in range(16 + 2 * CALLS):
        first.seconds = 1.45 if contest._trial.challenger is late and len(winner.seconds) < 3 else 1.0
        contest([value])
    assert (contest.engine, contest.decided) == ("a", True)


def test_one_nobody_knows_of_yet_is_tried_against_the_winner_of_an_earlier_trial(clock: Clock) -> None:
    late, other = Late("late", Plain(clock, 0.5), reserve=True), Plain(clock, 1.0)
    contest, _ = make(clock, [Entrant("a", other), Entrant("b", Plain(clock, 1.0)), late], remembered="b")
    settle(contest)
    wait_for(lambda: late.summoned)
    for value in range(16 + CALLS + 2):
        contest([value])
    assert (contest.engine, other.calls) == ("late", 0)


class TestLengths:
    """Calls of similar work share a trial, and all share an engine's copy of the weights."""

    def by_size(self, clock: Clock) -> tuple[ContestBySize, Copies, dict[str, Packing]]:
        copies = Copies()
        runs = {"a": Packing(clock, 1.0, copies), "b": Packing(clock, 1.2, copies)}

        def contest(kind: tuple[int], others: ContestBySize) -> Contest:
            entrants = [Entrant(name, run) for name, run in runs.items()]
            waits = not others.contests
            return make(clock, entrants, waits=waits, in_use=others.uses, work=others.work)[0]

        return ContestBySize(lambda args: int(args[0]), contest), copies, runs

    def call(self, contests: ContestBySize, value: int) -> None:
        wait_for(lambda: not any(one.pending for one in contests.distinct))
        assert list(contests([value])) == [value + 1]

    def test_lengths_within_a_factor_of_four_share_one(self, clock: Clock) -> None:
        contests, _, _ = self.by_size(clock)
        for value in range(64, 256, 8):
            self.call(contests, value)
        assert [one.decided for one in contests.distinct] == [True]

    def test_another_length_begins_with_who_serves_its_neighbour_and_nobody_waits(self, clock: Clock) -> None:
        contests, copies, _ = self.by_size(clock)
        while not any(one.decided for one in contests.distinct):
            self.call(contests, 40)
        packed = len(copies.makers)
        self.call(contests, 4000)
        assert (len(contests.distinct), contests.distinct[-1].engine) == (2, "a")
        assert len(copies.makers) == packed

    def test_who_is_beaten_at_one_length_keeps_its_copy_while_it_is_used_at_another(self, clock: Clock) -> None:
        contests, copies, runs = self.by_size(clock)
        while not any(one.decided for one in contests.distinct):
            self.call(contests, 40)
        runs["a"].seconds, runs["b"].seconds = 2.0, 1.0  # at this length the other one is faster
        while not all(one.decided for one in contests.distinct) or len(contests.distinct) < 2:
            self.call(contests, 4000)
        assert [one.engine for one in contests.distinct] == ["a", "b"]
        assert (copies.now, runs["a"].ready) == (2, True)


class TestCompared:
    def test_where_time_follows_the_work_it_counts_by_work(self) -> None:
        first = ([1.0, 4.0, 2.0], [100.0, 400.0, 200.0])
        second = ([3.6, 0.9, 3.5], [400.0, 100.0, 400.0])
        one, other = compared(first, second)
        assert other < one
        assert one == pytest.approx(0.01)

    def test_where_it_does_not_it_counts_by_call(self) -> None:
        first = ([1.0, 1.01, 1.0], [100.0, 400.0, 200.0])
        second = ([1.1, 1.1, 1.12], [400.0, 300.0, 400.0])
        assert compared(first, second) == (1.0, 1.1)
