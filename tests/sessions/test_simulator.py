"""The simulator of agent sessions: nothing is made or lost, links carry what they can, figures known by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.sessions.engine import Simulation
from bench.sessions.law import LLAMA_8B, Law, law_of
from bench.sessions.links import Link, Transfer
from bench.sessions.load import PAGE, Job, Load, Spawn, Turn, in_equilibrium, on_the_ring
from bench.sessions.server import Hint, Server, silent
from djinn_fx.sessions.policy.named import POLICIES, policy_named
from djinn_fx.sessions.policy.state import Tier

KB = 1024
TOKEN = 128 * KB
LAW = law_of(LLAMA_8B)


def server(pages: int = 40, host: int = 100, link: float = 5e9) -> Server:
    return Server(LAW, TOKEN, pages * PAGE * TOKEN, host * PAGE * TOKEN, link)


def played(load: Load, name: str, on: Server, hint: Hint = silent) -> Simulation:
    return Simulation(load, policy_named(name), on, hint, check=True).run()


TURNS = st.builds(
    Turn,
    gap=st.sampled_from([0.0, 0.5, 3.0, 40.0, 400.0]),
    common=st.integers(0, 1500),
    inputs=st.integers(1, 1500),
    outputs=st.integers(1, 200),
    tool=st.sampled_from(["tool", "user", ""]),
    busy=st.just(5.0),
)


@st.composite
def loads(draw: st.DrawFn) -> Load:
    jobs = []
    for number in range(draw(st.integers(1, 8))):
        turns = draw(st.lists(TURNS, min_size=1, max_size=6))
        held = draw(st.sampled_from([0, 0, 700]))
        before = held
        for turn in turns:
            turn.common = min(turn.common, before, turn.inputs - 1)
            before = turn.tokens
        prefix = not held and draw(st.booleans())
        base = 5 * PAGE if prefix else 0
        for turn in turns:
            turn.inputs, turn.common = turn.inputs + base, turn.common + base if prefix else turn.common
        spawns = []
        if not prefix and draw(st.booleans()):
            own = [Turn(0.0, 0, 900, 50, busy=1.0), Turn(2.0, 900, 1000, 20, busy=1.0)]
            shared = min(turns[0].tokens, 800) // PAGE * PAGE
            for turn in own:
                turn.common = max(turn.common, shared)
            spawns = [Spawn(0, 1.0, Job(f"{number}/sub", 0.0, own, base=shared, parent=str(number)))]
        then = draw(st.sampled_from([None, 500.0]))
        start = draw(st.floats(0, 20))
        jobs.append(Job(str(number), 0.0 if held else start, turns, draw(st.sampled_from("ab")), held, 10.0, then,
                        base, "prefix" if prefix else "", spawns))  # fmt: skip
    return Load(tuple(jobs), window=1e4, warm=0.0, prefixes={"prefix": 5 * PAGE})


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(loads(), st.sampled_from(sorted(POLICIES)), st.integers(64, 120), st.sampled_from([0, 20, 300]), st.booleans())
def test_nothing_is_made_or_lost(load: Load, name: str, pages: int, host: int, hinted: bool) -> None:
    """``check`` adds up every tier after every event; every turn that came ends; links carry what they can."""
    run = played(load, name, server(pages, host), (lambda job, place, gap: gap) if hinted else silent)
    came = {(one.job, one.place) for one in run.played}
    assert {(job.key, place) for job in load.jobs for place in range(len(job.turns))} <= came
    for one in run.played:
        assert one.came <= one.ready <= one.began <= one.first_token <= one.done
    for link in (run.memory.into, run.memory.out):
        assert link.carried <= link.bytes_per_s * run.now + 100
        assert link.busy <= run.now + 1e-6
    # Bytes that were loaded came over the link, but for what is under way when the last turn ends.
    assert run.memory.into.carried <= run.memory.loaded + 100
    assert run.serving.compute.busy <= run.now + 1e-6


def two(gap: float) -> Load:
    """Two sessions of 20 pages each, the second while the first one waits; there is room for one and a half."""
    first = Job("a", 0.0, [Turn(0.0, 0, 20 * PAGE - 1, 1), Turn(gap, 20 * PAGE, 20 * PAGE + 1, 1)])
    second = Job("b", 1.0, [Turn(0.0, 0, 20 * PAGE - 1, 1)], then=1e6)
    return Load((first, second), window=1e5, warm=0.0)


def test_a_wait_for_a_load_is_bytes_over_rate() -> None:
    # 21 pages are needed for the second turn; 30 are there. The second session pushes 10 pages of the first one out.
    run = played(two(100.0), "lru-host", server(30, 100, 5e9))
    turn = next(one for one in run.played if one.job == "a" and one.place == 1)
    assert turn.loaded == 10 * PAGE * TOKEN
    assert turn.computed == 0
    # Both directions at once: 11 pages leave for what comes (10 and one new), page by page.
    assert turn.began - turn.came == pytest.approx(11 * PAGE * TOKEN / 5e9, rel=0.02)


def test_without_a_host_it_is_computed_anew() -> None:
    run = played(two(100.0), "lru", server(30, 0))
    turn = next(one for one in run.played if one.job == "a" and one.place == 1)
    assert (turn.loaded, turn.computed) == (0, 10 * PAGE)
    assert turn.first_token - turn.began == pytest.approx(LAW.prefill_s(10 * PAGE, 20 * PAGE + 1), rel=1e-6)


def test_who_knows_the_future_has_it_there_in_time() -> None:
    run = played(two(100.0), "clairvoyant", server(30, 100))
    turn = next(one for one in run.played if one.job == "a" and one.place == 1)
    assert turn.began - turn.came == pytest.approx(0.0, abs=0.02)
    assert run.memory.prefetched == 10 * PAGE * TOKEN


def test_a_shared_beginning_is_counted_and_computed_once() -> None:
    jobs = [Job(name, start, [Turn(0.0, 0, 20 * PAGE, PAGE)], base=15 * PAGE, parent="prefix", then=1e6)
            for name, start in (("a", 0.0), ("b", 5.0))]  # fmt: skip
    run = played(Load(tuple(jobs), 1e4, 0.0, {"prefix": 15 * PAGE}), "lru-host", server(40))
    first, second = run.played
    assert first.first_token - first.began == pytest.approx(LAW.prefill_s(0, 20 * PAGE))
    assert second.first_token - second.began == pytest.approx(LAW.prefill_s(15 * PAGE, 20 * PAGE))
    assert run.memory.used[Tier.DEVICE] == (15 + 6 + 6) * PAGE * TOKEN


def test_decoding_turns_share_iterations() -> None:
    jobs = tuple(Job(name, 0.0, [Turn(0.0, 0, PAGE, 1000)], then=1e6) for name in "ab")
    law = Law(token_s=1e-9, pair_s=0.0, weights_s=0.01, byte_s=0.0, launch_s=0.0)
    run = Simulation(Load(jobs, 1e4, 0.0), policy_named("lru"), Server(law, TOKEN, 1 << 40, 0, 1e9), check=True).run()
    assert [one.done for one in run.played] == pytest.approx([10.0, 10.0], abs=0.02)


def test_an_urgent_transfer_interrupts() -> None:
    link = Link(100.0)
    slow, quick = Transfer("slow", 1000, 1000.0, False), Transfer("quick", 500, 500.0, True)
    link.push(slow, (1.0,), 0.0)
    assert link.advance(4.0) == []
    link.push(quick, (0.0,), 4.0)
    assert link.next_done() == 9.0
    assert link.backlog_s(4.0) == pytest.approx(11.0)
    assert link.advance(9.0) == [quick]
    assert link.advance(15.0) == [slow]
    assert link.carried == pytest.approx(1500)


def test_a_session_on_the_ring_is_whole() -> None:
    job = Job("a", 0.0, [Turn(0.0, 0, 100, 10, busy=10.0), Turn(250.0, 110, 200, 10, busy=10.0)])
    parts = on_the_ring(job, 60.0, 100.0)
    # Ten seconds of the first turn, then 30, 100 and 100 of the wait, and 20 more.
    assert [(part.start, len(part.turns), part.held, part.waited) for part in parts] == [
        (60.0, 1, 0, 0.0), (0.0, 0, 110, 30.0), (0.0, 0, 110, 130.0), (0.0, 1, 110, 230.0)
    ]  # fmt: skip
    assert [part.then for part in parts] == [250.0, 250.0, 250.0, None]
    assert parts[-1].turns[0].gap == pytest.approx(20.0)


def test_an_equilibrium_has_the_bytes_alive_that_were_asked_for() -> None:
    job = Job("a", 0.0, [Turn(0.0, 0, 1000, 10, busy=5.0)] + [Turn(50.0, 1010, 1200, 10, busy=5.0) for _ in range(20)])
    load = in_equilibrium(
        [replace(job, key=str(number)) for number in range(10)], TOKEN, 4e9, 10_000, seed=1, longest_gap=1e9
    )
    run = Simulation(load, policy_named("lru"), Server(LAW, TOKEN, 1 << 60, 0, 1e9), check=True).run()
    assert run.alive_byte_s / load.window == pytest.approx(4e9, rel=0.15)
