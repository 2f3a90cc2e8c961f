"""Engines compete: who answers, who wins, who comes later, who is out, and that every answer is right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from djinn_fx.dispatch import entrant as entrant_module
from djinn_fx.dispatch.contests import contest as contest_module
from djinn_fx.dispatch.contests import own_ops, trial
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.contestants import ContestBySize
from djinn_fx.dispatch.contests.trial import CALLS, MARGIN, MAX_ROUNDS, ROUNDS
from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.engines.base import Declined, Runner
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind


class Clock:
    """Time that only engines spend."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that engines turn. No engine of another test is being made ready meanwhile: times would not count."""
    made = Clock()
    monkeypatch.setattr(entrant_module, "_AT_WORK", set())
    monkeypatch.setattr(contest_module, "time", made)
    monkeypatch.setattr(own_ops, "time", made)
    monkeypatch.setattr(trial, "SECONDS", 1e9)  # these engines take seconds, so that their times are easy to read
    yield made
    for thread in threading.enumerate():
        if thread.name.startswith("djinn prepares"):
            thread.join(10)


class Plain:
    """An engine that always answers, in so many seconds."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        self.calls += 1
        self.clock.now += self.seconds
        value = args[0]
        args.clear()
        return [value + 1]


class Bound(Plain, Runner):
    """An engine that must be made ready for what it is given."""

    partial = True

    def __init__(self, clock: Clock, seconds: float, *, fails: str = "") -> None:
        super().__init__(clock, seconds)
        self.ready, self.fails, self.prepared, self.released = False, fails, 0, 0

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        return self(args) if self.ready else None

    def prepare(self, args: list[Any]) -> Callable[[], None] | None:
        if self.ready:
            return None

        def work() -> None:
            self.prepared += 1
            if self.fails:
                raise EngineError(self.fails)
            self.ready = True

        return work

    def release(self) -> None:
        self.released += 1


class Late(Entrant):
    """An engine that is there once it has come; a reserve comes when it is asked for."""

    late = True

    def __init__(self, engine: str, run: Any, *, reserve: bool = False) -> None:
        super().__init__(engine, run)
        self.reserve, self.here, self.summoned = reserve, False, 0

    def arrived(self) -> bool:
        return self.here

    def submit(self) -> None:
        self.summoned += 1
        self.here = True


def call(contest: Any, times: int = 1) -> None:
    for value in range(times):
        args = [value]
        assert list(contest(args)) == [value + 1]


def make(clock: Clock, entrants: Sequence[Entrant], *, waits: bool = True, **others: Any) -> tuple[Contest, Plain]:
    reference = Plain(clock, 10.0)
    contest = Contest(label="layer", entrants=entrants, reference=reference, waits=waits, **others)
    return contest, reference


class Choosy(Bound):
    """An engine that declines odd numbers, fails at numbers above a hundred, and does not serve at all below zero."""

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        if args[0] % 2:
            raise Declined("an odd number")
        if args[0] > 100:
            raise EngineError("a large number")
        return super().attempt(args)


class Strict(Plain):
    """The region's own ops, which raise for numbers above a thousand."""

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        if args[0] > 1000:
            raise IndexError("out of range")
        return super().__call__(args)


class TestDeclined:
    def test_a_declined_call_is_eagers_and_the_engine_stays(self, clock: Clock) -> None:
        run = Choosy(clock, 1.0)
        contest, reference = make(clock, [Entrant("a", run)])
        call(contest, 4 * MAX_ROUNDS)
        assert contest.decided
        assert contest.engine == "a"
        assert run.calls >= 2 * MAX_ROUNDS - 1
        assert reference.calls == 2 * MAX_ROUNDS
        (status,) = contest.status().entrants
        assert status.state is State.SERVING
        assert status.reason is not None
        assert status.reason.kind is ReasonKind.DECLINED

    def test_an_engine_that_declines_every_call_is_as_slow_as_eager(self, clock: Clock) -> None:
        run, other = Choosy(clock, 1.0), Plain(clock, 2.0)
        contest, _ = make(clock, [Entrant("a", run), Entrant("b", other)])
        for _ in range(4 * (ROUNDS + 1)):
            assert list(contest([7])) == [8]
        assert contest.decided
        assert contest.engine == "b"

    @pytest.mark.parametrize("calls", [0, 4 * MAX_ROUNDS], ids=["on trial", "serving"])
    def test_a_call_that_eager_refuses_too_says_nothing_against_the_engine(self, clock: Clock, calls: int) -> None:
        run = Choosy(clock, 1.0)
        contest = Contest(label="layer", entrants=[Entrant("a", run)], reference=Strict(clock, 10.0), waits=True)
        call(contest, calls)
        for _ in range(5):
            with pytest.raises(IndexError):
                contest([2000])
        assert contest.entrants[0].state in (State.TRIAL, State.SERVING)
        before = run.calls
        call(contest, 4)
        assert run.calls > before
        assert list(contest([102])) == [103]  # eager can, so the engine is at fault
        assert contest.entrants[0].state is State.FAILED


class TestTrial:
    def test_the_fastest_serves_and_the_runner_up_is_named(self, clock: Clock) -> None:
        runs = {"a": Plain(clock, 1.2), "b": Plain(clock, 1.0), "c": Plain(clock, 1.1)}
        told: list[tuple[str, Mapping[str, float]]] = []
        contest, reference = make(
            clock, [Entrant(n, r) for n, r in runs.items()], decided=lambda *how: told.append(how)
        )
        call(contest, CALLS + len(runs))  # the first answer of each is not timed
        assert contest.decided
        assert contest.engine == "b"
        assert told == [("b", {"a": pytest.approx(1.2), "b": pytest.approx(1.0), "c": pytest.approx(1.1)})]
        assert contest.reason is not None
        assert (contest.reason.kind, contest.reason.runner_up) == (ReasonKind.ENGINE_CHOSEN, "c")
        before = {name: run.calls for name, run in runs.items()}
        call(contest, 10)
        assert {name: run.calls - before[name] for name, run in runs.items()} == {"a": 0, "b": 10, "c": 0}
        assert reference.calls == 0

    def test_the_times_of_all_who_stayed_in_are_told_once(self, clock: Clock) -> None:
        runs = {"a": Plain(clock, 1.2), "b": Plain(clock, 1.0), "hopeless": Plain(clock, 5.0)}
        told: list[Mapping[str, Sequence[float]]] = []
        contest, _ = make(clock, [Entrant(n, r) for n, r in runs.items()], timed=told.append)
        call(contest, 3 * (ROUNDS + 1) + 10)
        assert contest.decided
        (times,) = told
        assert {name: len(seconds) for name, seconds in times.items()} == {"a": ROUNDS, "b": ROUNDS + 2}
        assert times["a"] == pytest.approx([1.2] * ROUNDS)

    def test_they_answer_in_turn(self, clock: Clock) -> None:
        runs = [Plain(clock, 1.0), Plain(clock, 1.0)]
        contest, _ = make(clock, [Entrant("a", runs[0]), Entrant("b", runs[1])])
        for _ in range(ROUNDS):
            call(contest, 2)
            assert runs[0].calls == runs[1].calls

    def test_short_calls_are_tried_more_often(self, clock: Clock) -> None:
        runs = [Plain(clock, 0.001), Plain(clock, 0.0011)]
        contest, _ = make(clock, [Entrant("a", runs[0]), Entrant("b", runs[1])])
        call(contest, 2 * MAX_ROUNDS)
        assert not contest.decided
        call(contest, 2)
        assert contest.decided

    def test_the_hopeless_are_out_after_two_timed_answers(self, clock: Clock) -> None:
        slow = Plain(clock, 5.0)
        contest, _ = make(
            clock, [Entrant("slow", slow), Entrant("a", Plain(clock, 1.0)), Entrant("b", Plain(clock, 1.1))]
        )
        call(contest, 40)
        assert slow.calls == 3
        assert contest.engine == "a"

    def test_one_alone_serves_after_its_first_timed_answer(self, clock: Clock) -> None:
        contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0))])
        call(contest, 2)
        assert contest.decided

    def test_what_was_found_before_is_not_tried_again(self, clock: Clock) -> None:
        other = Plain(clock, 0.5)
        contest, _ = make(clock, [Entrant("a", other), Entrant("b", Plain(clock, 1.0))], remembered="b")
        call(contest, 20)
        assert contest.engine == "b"
        assert other.calls == 0

    def test_what_was_found_before_but_is_gone_is_no_hindrance(self, clock: Clock) -> None:
        contest, reference = make(clock, [Entrant("a", Plain(clock, 1.0))], remembered="removed")
        call(contest, 20)
        assert contest.engine == "a"
        assert reference.calls == 0


class TestReadiness:
    def test_the_caller_waits_for_the_first_only(self, clock: Clock) -> None:
        first, second = Bound(clock, 1.0), Bound(clock, 1.1)
        contest, reference = make(clock, [Entrant("a", first), Entrant("b", second)])
        call(contest)
        assert (first.calls, first.prepared, reference.calls) == (1, 1, 0)
        wait_for(lambda: call(contest) or contest.decided)
        assert contest.engine == "a"
        assert second.prepared == 1
        assert second.released == 1

    def test_nobody_waits_in_the_background(self, clock: Clock) -> None:
        engine = Bound(clock, 1.0)
        contest, reference = make(clock, [Entrant("a", engine)], waits=False)
        call(contest)
        assert reference.calls == 1
        wait_for(lambda: call(contest) or contest.decided)
        assert engine.prepared == 1
        assert contest.engine == "a"

    def test_changed_weights_are_served_by_the_regions_own_ops_until_it_is_ready_again(self, clock: Clock) -> None:
        engine = Bound(clock, 1.0)
        contest, reference = make(clock, [Entrant("a", engine)], waits=False)
        wait_for(lambda: call(contest) or contest.decided)
        before, engine.ready = reference.calls, False
        call(contest)
        assert reference.calls == before + 1
        wait_for(lambda: engine.ready)
        wait_for(lambda: contest.entrants[0].state is State.SERVING)
        call(contest)
        assert reference.calls == before + 1
        assert engine.prepared == 2

    def test_an_engine_that_cannot_be_made_ready_is_out(self, clock: Clock) -> None:
        broken, good = Bound(clock, 1.0, fails="no kernel for this"), Plain(clock, 3.0)
        contest, _ = make(clock, [Entrant("a", broken), Entrant("b", good)])
        call(contest, 20)
        assert contest.engine == "b"
        assert broken.calls == 0
        reason = contest.status().entrants[0].reason
        assert reason is not None
        assert reason.kind is ReasonKind.FALLBACK

    def test_when_the_winner_fails_later_the_others_compete_again(self, clock: Clock) -> None:
        winner, other = Bound(clock, 1.0), Plain(clock, 1.5)
        contest, _ = make(clock, [Entrant("a", winner), Entrant("b", other)])
        call(contest, 30)
        assert contest.engine == "a"
        winner.ready, winner.fails = False, "out of memory"
        wait_for(lambda: call(contest) or (contest.engine == "b" and contest.decided))

    def test_without_any_engine_the_regions_own_ops_answer(self, clock: Clock) -> None:
        contest, reference = make(clock, [Entrant("a", Bound(clock, 1.0, fails="broken"))])
        call(contest, 5)
        assert reference.calls == 5
        assert contest.engine == "eager"

    def test_a_dropped_engine_gives_no_further_answer(self, clock: Clock) -> None:
        wrong, other = Plain(clock, 1.0), Plain(clock, 2.5)
        contest, _ = make(clock, [Entrant("a", wrong), Entrant("b", other)])
        call(contest, 30)
        before = wrong.calls
        contest.drop("a", Reason(kind=ReasonKind.FALLBACK, detail="wrong"))
        call(contest, 10)
        assert wrong.calls == before
        assert contest.engine == "b"


class TestNewcomers:
    def contest(self, clock: Clock, seconds: float) -> Contest:
        late = Late("late", Plain(clock, seconds))
        contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), late])
        call(contest, 30)
        assert contest.engine == "a"
        late.here = True
        call(contest, 60)
        return contest

    def test_a_faster_one_takes_over(self, clock: Clock) -> None:
        contest = self.contest(clock, 0.5)
        assert contest.engine == "late"
        assert contest.decided

    def test_one_that_is_hardly_faster_does_not(self, clock: Clock) -> None:
        contest = self.contest(clock, 1.0 - MARGIN / 2)
        assert contest.engine == "a"
        assert contest.decided

    def test_what_nobody_asked_for_is_built_when_nobody_else_is_left(self, clock: Clock) -> None:
        reserve = Late("reserve", Plain(clock, 1.0), reserve=True)
        broken = Bound(clock, 1.0, fails="broken")
        contest, _ = make(clock, [Entrant("a", broken), reserve])
        call(contest, 10)
        assert reserve.summoned == 1
        assert contest.engine == "reserve"

    def test_it_is_not_built_before_the_others_were_tried(self, clock: Clock) -> None:
        reserve = Late("reserve", Plain(clock, 0.5), reserve=True)
        contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), Entrant("b", Plain(clock, 1.1)), reserve])
        call(contest, CALLS)  # the first answer of each is not timed
        assert not reserve.summoned
        call(contest, 2)
        wait_for(lambda: reserve.summoned)
        call(contest, 60)
        assert (contest.engine, reserve.summoned) == ("reserve", 1)


class Dear(Late):
    """A reserve whose building pays after so many calls."""

    def __init__(self, engine: str, run: Any, after: int) -> None:
        super().__init__(engine, run, reserve=True)
        self.after, self.asked_for_s = after, set[float | None]()

    def pays(self, run_s: float | None, calls: int) -> bool:
        self.asked_for_s.add(run_s)
        return calls >= self.after


class TestWhatIsDear:
    """What takes long to build is not begun before it can pay, and is tried when it comes."""

    def contest(self, clock: Clock, after: int) -> tuple[Contest, Dear]:
        dear = Dear("dear", Plain(clock, 0.5), after)
        contest, _ = make(clock, [Entrant("a", Plain(clock, 1.0)), Entrant("b", Plain(clock, 1.1)), dear])
        call(contest, 60)
        return contest, dear

    def test_it_is_not_built_as_long_as_it_cannot_pay(self, clock: Clock) -> None:
        contest, dear = self.contest(clock, after=10_000)
        call(contest, 200)
        assert not dear.summoned
        assert dear.asked_for_s == {1.0}
        assert (contest.engine, contest.decided) == ("a", True)

    def test_once_it_may_pay_it_is_built_and_takes_over(self, clock: Clock) -> None:
        contest, dear = self.contest(clock, after=200)
        assert not dear.summoned
        call(contest, 200)
        wait_for(lambda: dear.summoned)
        call(contest, 60)
        assert (contest.engine, dear.summoned) == ("dear", 1)

    def test_who_waits_has_it_built_at_once(self, clock: Clock) -> None:
        contest, dear = self.contest(clock, after=10_000)
        contest.summon(whether_or_not=True)
        assert contest.pending or dear.summoned
        wait_for(lambda: not contest.pending)
        assert dear.summoned == 1
        call(contest, 60)
        assert contest.engine == "dear"


class TestAwaited:
    """While nobody answers but own ops, who is made ready does not let calls go first; a challenger does."""

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, bool]]:
        """What each thread was for, and whether it is one beside the calls, and awaited."""
        found: list[tuple[str, bool, bool]] = []

        def start(work: Callable[[], None], name: str, *, serves: bool, beside: bool, awaited: bool) -> bool:
            found.append((name, beside, awaited))
            work()
            return True

        monkeypatch.setattr(entrant_module, "start_thread", start)
        return found

    def test_the_first_is_and_a_challenger_is_not(self, clock: Clock, started: list[tuple[str, bool, bool]]) -> None:
        runs = [Bound(clock, 1.0), Bound(clock, 2.0)]
        contest, reference = make(clock, [Entrant(*one) for one in zip("ab", runs, strict=True)], waits=False)
        call(contest)
        assert reference.calls == 1
        assert started == [("djinn prepares a", True, True)]
        call(contest, 3)
        assert started[1:] == [("djinn prepares b", True, False)]

    def test_who_serves_is_where_it_cannot_answer_as_things_are(
        self, clock: Clock, started: list[tuple[str, bool, bool]]
    ) -> None:
        runs = [Bound(clock, 1.0), Bound(clock, 2.0)]
        contest, reference = make(clock, [Entrant(*one) for one in zip("ab", runs, strict=True)], waits=False)
        call(contest, 3 * CALLS)
        assert (contest.engine, contest.decided) == ("a", True)
        del started[:]
        runs[0].ready, before = False, reference.calls  # weights have changed
        call(contest)
        assert reference.calls == before + 1
        assert started == [("djinn prepares a", True, True)]


class Slow(Bound):
    """An engine that takes long to be made ready, and rehearses then."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(clock, seconds)
        self.go_on, self.rehearsed = threading.Event(), 0

    def prepare(self, args: list[Any]) -> Callable[[], None] | None:
        work = super().prepare(args)

        def slowly() -> None:
            assert self.go_on.wait(20)
            assert work is not None
            work()

        return slowly if work is not None else None

    def rehearsal(self, args: Sequence[Any]) -> Callable[[], None] | None:
        return self._rehearse if not self.rehearsed else None

    def _rehearse(self) -> None:
        self.rehearsed += 1


class TestThoseThatTakeLong:
    """Who is not ready soon does not hold up the trial: it is tried when it is."""

    def contest(self, clock: Clock, slow: Slow, **others: Any) -> Contest:
        entrants = [Entrant("a", Bound(clock, 1.0)), Entrant("slow", slow)]
        contest, _ = make(clock, entrants, **others)
        call(contest, trial.MOST_CALLS + 2)
        return contest

    def test_the_best_serves_after_some_calls(self, clock: Clock) -> None:
        told: list[tuple[str, str]] = []
        slow = Slow(clock, 0.5)
        contest = self.contest(
            clock,
            slow,
            decided=lambda engine, _: told.append(("decided", engine)),
            leading=lambda engine, _: told.append(("leading", engine)),
        )
        assert (contest.engine, contest.status().trial) == ("a", "")
        assert ("decided", "a") not in told  # the next process goes on
        assert ("leading", "a") in told
        assert contest.pending
        slow.go_on.set()

    def test_who_was_tried_too_little_is_not_told_as_beaten(self, clock: Clock) -> None:
        """A call that it took before the time was over would keep it out of the next process's trial."""
        told: list[Mapping[str, float]] = []
        slow = Slow(clock, 2.0)
        entrants = [Entrant("a", Bound(clock, 1.0)), Entrant("slow", slow)]
        contest, _ = make(clock, entrants, leading=lambda _, seconds: told.append(seconds))
        call(contest, trial.MOST_CALLS - 4)
        slow.go_on.set()
        wait_for(lambda: not contest.pending)
        call(contest, 4)
        assert contest.status().trial == ""
        assert entrants[1].seconds == [2.0]
        assert told[-1] == {"a": 1.0}

    def test_a_note_whose_turn_comes_late_does_not_undo_the_outcome(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Notes wait for whatever else is done beside the calls, an engine that is being opened say."""
        told: list[str] = []
        notes: list[Callable[[], None]] = []
        monkeypatch.setattr(contest_module, "start_thread", lambda work, *_, **__: notes.append(work))
        contest, _ = make(
            clock,
            [Entrant("a", Plain(clock, 1.0)), Entrant("b", Plain(clock, 2.0))],
            decided=lambda engine, _: told.append(f"decided {engine}"),
            leading=lambda engine, _: told.append(f"leading {engine}"),
        )
        call(contest, 2 * CALLS)
        assert notes
        for note in notes:
            note()
        assert told == ["decided a"]

    @pytest.mark.parametrize(("seconds", "winner"), [(0.5, "slow"), (1.1, "a")])
    def test_who_is_ready_later_has_a_trial_of_its_own(self, clock: Clock, seconds: float, winner: str) -> None:
        slow = Slow(clock, seconds)
        contest = self.contest(clock, slow)
        slow.go_on.set()
        wait_for(lambda: not contest.pending)
        answered = slow.calls
        call(contest, 60)
        assert contest.engine == winner
        assert contest.decided
        assert slow.rehearsed == 1
        if winner == "a":
            timed = next(one.seconds for one in contest.entrants if one.engine == "slow")
            assert 2 <= len(timed) <= CALLS // 2
            assert slow.calls - answered == len(timed) + 1  # the first one is not timed
            assert slow.released == 1

    def test_before_it_is_ready_no_call_waits_for_it(self, clock: Clock) -> None:
        slow = Slow(clock, 0.5)
        contest = self.contest(clock, slow)
        call(contest, 100)
        assert slow.calls == 0
        slow.go_on.set()


class TestSizes:
    def test_calls_of_different_work_have_contests_of_their_own(self, clock: Clock) -> None:
        made: dict[tuple[int, ...], Contest] = {}

        def contest(kind: tuple[int], others: ContestBySize) -> Contest:
            # Which engine is faster depends on the size.
            a, b = (1.0, 1.5) if kind[0] < 3 else (1.5, 1.0)
            made[kind], _ = make(clock, [Entrant("a", Plain(clock, a)), Entrant("b", Plain(clock, b))])
            return made[kind]

        by_size = ContestBySize(lambda args: int(args[0]), contest)
        for value in [3, 100] * (CALLS + 2):
            assert list(by_size([value])) == [value + 1]
        assert {sizes: one.engine for sizes, one in made.items()} == {(1,): "a", (4,): "b"}


def test_threads_get_their_own_answers(clock: Clock) -> None:
    engines = [Bound(clock, 1.0), Bound(clock, 1.1), Plain(clock, 1.2)]
    contest, _ = make(clock, [Entrant(str(place), one) for place, one in enumerate(engines)])
    wrong: list[int] = []

    def work(base: int) -> None:
        for value in range(base, base + 200):
            if list(contest([value])) != [value + 1]:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def wait_for(happened: Callable[[], Any]) -> None:
    """Until it has; the builders of these tests need no time, so a second is a long time."""
    event = threading.Event()
    for _ in range(500):
        if happened():
            return
        event.wait(0.002)
    raise AssertionError("it did not happen")
