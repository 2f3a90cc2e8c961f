"""A lazy region with engines made by hand: states, swapping, guards, when it pays, what cancels a build."""

from __future__ import annotations

import gc
import io
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from djinn_fx.dispatch import lazy as lazy_module
from djinn_fx.dispatch import progress
from djinn_fx.dispatch.checks import Beside
from djinn_fx.dispatch.contests.pays import Budget, Estimate, Experience
from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.dispatch.lazy import LazyRegion, Policy
from djinn_fx.dispatch.memory import Loaded
from djinn_fx.engines.keys import Guards
from djinn_fx.reasons import Reason, ReasonKind
from tests.waiting import LONG, until


@pytest.fixture(autouse=True)
def _no_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests built does not count here."""
    monkeypatch.setattr(lazy_module, "EXPERIENCE", Experience())


class ByHand(Entrant):
    """An engine whose builds end when the test says so."""

    def __init__(self, engine: str = "inductor") -> None:
        super().__init__(engine)
        self.submitted = self.cancelled = 0
        self.extended: list[tuple[int, ...]] = []

    def submit(self) -> None:
        if self.state is State.COLD or self.retry_at is not None:
            self.submitted += 1
            self.retry_at = None
            self.move(State.QUEUED)

    def extend(self, sizes: Sequence[int]) -> None:
        self.extended.append(tuple(sizes))

    def cancel(self) -> None:
        self.cancelled += 1


def answering(text: str) -> Any:
    def run(args: list[Any]) -> list[Any]:
        args.clear()
        return [text]

    return run


def loaded(text: str, engine: str = "inductor", guards: str | None = None) -> Loaded:
    return Loaded(key="", run=answering(text), guards=Guards(expression=guards), engine=engine)


def lazy(*, at_once: bool = True, **given: Any) -> LazyRegion:
    policy = Policy(at_once=at_once, budget=Budget(None))
    options: dict[str, Any] = {"label": "layer", "ops": 10, "repeats": 1, "policy": policy, **given}
    return LazyRegion(eager=answering("eager"), **options)


class TestSwap:
    def test_calls_go_to_what_is_ready(self) -> None:
        region, one = lazy(), ByHand()
        region.build([one])
        assert (one.submitted, one.state, region([])) == (1, State.QUEUED, ["eager"])
        region.adopt(one, loaded("built"))
        assert (one.state, region([]), region.status().engine) == (State.READY, ["built"], "inductor")

    def test_a_better_engine_replaces_a_worse_one_and_not_the_other_way_round(self) -> None:
        region, best, second = lazy(), ByHand("tensorrt"), ByHand("inductor")
        region.build([best, second])
        region.adopt(second, loaded("second"))
        assert region([]) == ["second"]
        region.adopt(best, loaded("best", "tensorrt"))
        assert region([]) == ["best"]
        region.adopt(second, loaded("second again"))
        assert region([]) == ["best"]

    def test_builds_below_a_ready_engine_are_cancelled(self) -> None:
        region, best, second = lazy(), ByHand("tensorrt"), ByHand("inductor")
        region.build([best, second])
        region.adopt(best, loaded("best", "tensorrt"))
        assert (best.cancelled, second.cancelled) == (0, 1)

    def test_a_running_call_keeps_what_it_began_with(self) -> None:
        entered, go = threading.Event(), threading.Event()

        def slow(args: list[Any]) -> list[Any]:
            entered.set()
            assert go.wait(LONG)
            return ["slow eager"]

        policy = Policy(at_once=True, budget=Budget(None))
        region, one = LazyRegion(label="layer", eager=slow, ops=1, repeats=1, policy=policy), ByHand()
        region.build([one])
        results: list[Any] = []
        caller = threading.Thread(target=lambda: results.extend(region([])))
        caller.start()
        assert entered.wait(LONG)
        region.adopt(one, loaded("built"))
        go.set()
        caller.join(LONG)
        assert (results, region([])) == (["slow eager"], ["built"])

    def test_what_the_cache_held_is_where_it_starts(self) -> None:
        region = lazy(start=loaded("from the cache"))
        region.build([ByHand("tensorrt")])
        assert (region([]), region.status().engine) == (["from the cache"], "inductor")


class TestChecked:
    """An engine whose first answer is compared with eager's: it gets the region's own ops, and may be dropped."""

    class Doubtful(Beside):
        """Right or wrong, as the test says; what it does not accept it must not be asked."""

        def __init__(self, right: bool) -> None:
            self.right = right

        def __call__(self, args: list[Any]) -> list[Any]:
            return ["unchecked"]

        def checked(self, dropped: Any) -> Any:
            def run(args: list[Any]) -> Any:
                if self.right:
                    return ["checked"]
                dropped(Reason(kind=ReasonKind.FALLBACK, detail="wrong numbers"))
                return ["eager"]

            return run

    def test_a_right_one_stays(self) -> None:
        region, one = lazy(), ByHand("tensorrt")
        region.build([one])
        region.adopt(one, Loaded(key="", run=self.Doubtful(True), guards=Guards(expression=None), engine="tensorrt"))
        assert (region([]), region([])) == (["checked"], ["checked"])

    def test_a_wrong_one_is_dropped_and_the_next_one_runs(self) -> None:
        region, best, second = lazy(), ByHand("tensorrt"), ByHand("inductor")
        region.build([best, second])
        region.adopt(second, loaded("second"))
        region.adopt(best, Loaded(key="", run=self.Doubtful(False), guards=Guards(expression=None), engine="tensorrt"))
        assert region([]) == ["eager"], "what was compared with is what is given"
        assert region([]) == ["second"]
        assert (best.state, region.status().engine) == (State.FAILED, "inductor")
        assert best.reason is not None
        assert best.reason.kind is ReasonKind.FALLBACK

    def test_adopted_from_the_start(self) -> None:
        region, one = lazy(), Entrant("tensorrt")
        region.build([one])
        region.adopt(one, loaded("from the cache", "tensorrt"))
        assert (region([]), one.state) == (["from the cache"], State.READY)


class TestGuards:
    """An artefact for symbolic sizes that arrives after the graph was guarded is asked on every call."""

    def region(self) -> tuple[LazyRegion, ByHand]:
        region, one = lazy(places=[(0, None)]), ByHand()
        region.build([one])
        region.adopt(one, loaded("small", guards="L['t0'] <= 10"))
        return region, one

    def test_sizes_it_serves(self) -> None:
        region, _ = self.region()
        assert (region([10]), region([11])) == (["small"], ["eager"])

    def test_the_second_call_with_other_sizes_has_one_built_for_them(self) -> None:
        region, one = self.region()
        region([11])
        assert one.extended == []
        region([11])
        region([11])
        assert one.extended == [(11,)]
        region.adopt(one, loaded("large", guards="L['t0'] > 10"))
        assert (region([11]), region([10])) == (["large"], ["small"])

    def test_an_expression_about_more_symbols_than_there_are_never_holds(self) -> None:
        assert not Guards(expression="L['t1'] == 3").accept([3])

    def test_where_a_better_engine_does_not_serve_the_next_one_does(self) -> None:
        region, best, second = lazy(places=[(0, None)]), ByHand("tensorrt"), ByHand("inductor")
        region.build([best, second])
        region.adopt(best, loaded("best", "tensorrt", "L['t0'] == 1"))
        assert second.cancelled == 0, "it is still wanted for other sizes"
        region.adopt(second, loaded("second"))
        assert (region([1]), region([2])) == (["best"], ["second"])


class TestWhenItPays:
    def test_break_even(self) -> None:
        assert Estimate(build_s=2.0, saving_s=0.05).break_even == 40
        assert Estimate(build_s=2.0, saving_s=0.0).break_even is None

    def test_calls_made_while_it_builds_gain_nothing(self) -> None:
        estimate = Estimate(build_s=2.0, saving_s=0.05)
        assert estimate.pays(41)
        assert not estimate.pays(41, per_second=1.0)
        assert estimate.pays(43, per_second=1.0)

    def test_lazy_waits_for_the_calls_that_pay(self) -> None:
        region, one = lazy(at_once=False, predicted_s=1.0, clock_tells=False), ByHand()
        region._began -= 1e6  # as if the calls came rarely: their rate does not count
        region.build([one])
        assert (one.submitted, one.state) == (0, State.COLD)
        needed = region.estimate("inductor").break_even
        assert needed is not None
        assert needed > 1
        assert region.pays_after("inductor") == needed
        for _ in range(needed - 1):
            region([])
            assert one.submitted == 0
        region([])
        assert one.submitted == 1

    def test_every_layer_that_shares_the_build_counts(self) -> None:
        one, twelve = (lazy(at_once=False, predicted_s=1e-3, clock_tells=False, repeats=n) for n in (1, 12))
        alone, shared = (region.pays_after("inductor") for region in (one, twelve))
        assert alone is not None
        assert shared == -(-alone // 12)

    def test_waiting_for_it_builds_what_has_not_paid(self) -> None:
        region, one = lazy(at_once=False), ByHand()
        region.build([one])
        region.submit_all()
        assert one.submitted == 1

    def test_experience_replaces_the_table(self) -> None:
        known = Experience()
        table = known.build_seconds("inductor", 100)
        known.built("inductor", 100, 3 * table)
        assert known.build_seconds("inductor", 100) == pytest.approx(3 * table)
        known.built("inductor", 100, 7 * table)
        assert known.build_seconds("inductor", 100) == pytest.approx(4 * table)

    def test_budget(self) -> None:
        budget = Budget(10.0)
        assert budget.reserve(6.0)
        assert not budget.reserve(6.0)
        budget.settle(6.0, 1.0)
        assert budget.left_s == pytest.approx(9.0)
        assert budget.reserve(6.0)


class TestFailure:
    def test_a_failed_build_is_tried_again_when_its_time_has_come(self) -> None:
        region, one = lazy(), ByHand()
        region.build([one])
        one.retry_at = float("inf")
        one.move(State.FAILED)
        for _ in range(40):
            assert region([]) == ["eager"]
        assert one.submitted == 1
        one.retry_at = 0.0
        for _ in range(40):
            region([])
        assert one.submitted == 2

    def test_given_up_means_nobody_watches_any_more(self) -> None:
        region, one = lazy(), ByHand()
        region.build([one])
        one.move(State.FAILED)
        for _ in range(16):
            region([])
        executions = region.status().executions
        region([])
        assert region.status().executions == executions


def test_freeing_the_region_cancels_its_builds() -> None:
    region, one = lazy(), ByHand()
    region.build([one])
    region([])
    gone = weakref.ref(region)
    gc.disable()
    try:
        del region
        assert gone() is None, "no cycle keeps it"
    finally:
        gc.enable()
    assert one.cancelled == 1


class TestProgress:
    class Pool:
        """Has jobs as long as the test says."""

        def __init__(self) -> None:
            self.jobs: tuple[tuple[str, str, float], ...] = (("layer", "building", 1.0), ("head", "queued", 1.0))

        def pending(self) -> tuple[tuple[str, str, float], ...]:
            return self.jobs

    def test_one_line_that_goes_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written, pool = io.StringIO(), self.Pool()
        monkeypatch.setattr(sys, "stderr", written)
        monkeypatch.setattr(progress, "QUIET_S", 0.0)
        progress.watch(pool, True)
        assert until(lambda: "djinn: building layer in the background, 2 left" in written.getvalue())
        pool.jobs = ()
        assert until(lambda: written.getvalue().endswith(" \r"))
        assert "\n" not in written.getvalue()

    def test_nothing_where_it_is_no_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        pool = self.Pool()
        progress.watch(pool, None)
        assert pool not in progress._watched
        assert written.getvalue() == ""
