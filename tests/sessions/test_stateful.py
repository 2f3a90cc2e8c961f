"""A manager under any order of turns, hints, copies, cancellations and closings: answers are those of a quiet one."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from djinn_fx.errors import InfeasibleError
from djinn_fx.sessions.conversation import Turn
from djinn_fx.sessions.outcome import Answer
from djinn_fx.sessions.policy.named import policy_named
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.roster import under_way
from tests.sessions.models import Clock, looked_at, manual, run, tokens, turn

KEYS = ("a", "b", "c", "d")
keys = st.sampled_from(KEYS)
PAGES = 10


class Sessions(RuleBasedStateMachine):
    """Four sessions of a small model over ten pages on the device; contexts beyond what fits are refused."""

    kind = "full"

    @initialize(host=st.sampled_from([0, 6, 60]), policy=st.sampled_from(["djinn", "lru", "lru-host", "eager-swap"]))
    def make(self, host: int, policy: str) -> None:
        self.clock = Clock()
        self.manager, self.mover = manual(
            looked_at(self.kind), PAGES, host, policy=policy_named(policy), clock=self.clock, chunk=16
        )
        self.asked: list[tuple[tuple[int, ...], Turn]] = []
        self.seed = 0

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        self.clock.now += 10_000  # leases are over
        run(self.manager, self.mover)
        for made in (made for _, made in self.asked):
            assert made.future.done()
        self.answers_are_those_of_a_quiet_manager()
        self.manager.close()
        self.mover.run()
        check(self.manager.store)
        assert self.manager.store.table.in_use == 0
        assert self.manager.store.device.free == PAGES

    def answers_are_those_of_a_quiet_manager(self) -> None:
        quiet, mover = manual(looked_at(self.kind), 200)
        for number, (context, made) in enumerate(self.asked):
            if made.future.cancelled() or not made.made:
                continue
            twin = turn(quiet, context, made.max_new)
            quiet.submit(quiet.open(str(number)), twin)
            run(quiet, mover)
            for found, wanted, gap in zip(made.made, twin.made, twin.gaps, strict=True):
                if found != wanted:
                    assert gap < 1e-3, "a divergence that rounding does not explain"
                    break

    @rule(key=keys, priority=st.integers(-2, 2))
    def open(self, key: str, priority: int) -> None:
        if key not in self.manager.conversations:
            self.manager.open(key, tenant=key, priority=priority)

    @rule(key=keys, new=st.integers(1, 70), count=st.integers(0, 3))
    def ask(self, key: str, new: int, count: int) -> None:
        one = self.manager.conversations.get(key)
        if one is None or one.turns:
            return
        self.seed += 1
        made = turn(self.manager, tokens(new, self.seed), count)
        try:
            self.manager.submit(one, made)
        except InfeasibleError:
            return
        self.asked.append((tuple(one.tokens), made))

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.manager.step()

    @precondition(lambda self: self.mover.jobs)
    @rule(place=st.integers(0, 5))
    def begin(self, place: int) -> None:
        self.mover.begin(place % len(self.mover.jobs))

    @precondition(lambda self: self.mover.begun)
    @rule()
    def end(self) -> None:
        self.mover.end()

    @rule(seconds=st.sampled_from([0.01, 1.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        key=keys,
        phase=st.sampled_from(["IO_WAIT", "COMPUTE"]),
        estimate=st.sampled_from([None, 0, 5.0, 1e12, -1.0, math.nan, math.inf]),
        tool=st.sampled_from([None, "grep"]),
    )
    def signal(self, key: str, phase: str, estimate: float | None, tool: str | None) -> None:
        one = self.manager.conversations.get(key)
        if one is not None:
            said = self.manager.hints.signal(one, phase, estimate, tool)
            bad = estimate is not None and not estimate >= 0
            assert (said.answer is Answer.REJECTED) == bad

    @rule(key=keys, verb=st.sampled_from(["demote", "prefetch", "release"]))
    def tell(self, key: str, verb: str) -> None:
        one = self.manager.conversations.get(key)
        if one is not None:
            {
                "demote": self.manager.hints.demote,
                "prefetch": self.manager.hints.prefetch,
                "release": self.manager.hints.release,
            }[verb](one)

    @rule(key=keys, seconds=st.sampled_from([0.0, 5.0, 1e9]))
    def lease(self, key: str, seconds: float) -> None:
        one = self.manager.conversations.get(key)
        if one is not None:
            self.manager.hints.pin(one, seconds)
            self.manager.hints.retain(one, seconds, None)

    @rule(key=keys, other=keys)
    def share(self, key: str, other: str) -> None:
        one = self.manager.conversations.get(key)
        if one is not None and not one.turns and other not in self.manager.conversations:
            self.manager.open(other, like=one)

    @rule(key=keys)
    def cancel(self, key: str) -> None:
        one = self.manager.conversations.get(key)
        if one is not None and one.turns:
            one.turns[0].future.cancel()

    @rule(key=keys)
    def close(self, key: str) -> None:
        one = self.manager.conversations.get(key)
        if one is not None:
            self.manager.close_session(one)

    @invariant()
    def pages_are_in_order(self) -> None:
        if hasattr(self, "manager"):
            check(self.manager.store)

    @invariant()
    def who_is_under_way_is_seen(self) -> None:
        if hasattr(self, "manager"):
            roster, now = self.manager.conversations, self.clock.now
            assert {key for key, one in roster.items() if under_way(one, now)} <= set(roster.busy) <= set(roster)


class TestSessions(Sessions.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


class Linear(Sessions):
    """The same of a model with states, which cannot be cut short."""

    kind = "linear"


@pytest.mark.exam
class TestSessionsLong(Sessions.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=400, stateful_step_count=60, deadline=None)


@pytest.mark.exam
class TestLinearLong(Linear.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
