"""The bench of policies reads traces as they are, judges as it says, and agrees with what can be worked out by hand."""

from __future__ import annotations

import gzip
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.sessions.blocks import infinite, play
from bench.sessions.cells import CELLS, HINTS, QUICK, bursty, lying, noisy, without
from bench.sessions.engine import Simulation
from bench.sessions.exact import LOADING, Small, drawn, optimum, simulated
from bench.sessions.generate import sessions_like
from bench.sessions.judging import bound_s, by_turn, interval, percentile, unlimited
from bench.sessions.law import LLAMA_8B, law_of
from bench.sessions.load import PAGE, Job, Turn
from bench.sessions.old_load import PRESETS, figures
from bench.sessions.runs import run_cell
from bench.sessions.simulate import counts
from bench.sessions.traces import bfcl, found, kv_cache_tester
from bench.sessions.tuning import best, grid
from djinn_fx.sessions.policy.named import policy_named
from djinn_fx.sessions.policy.value import ByValue


def test_a_trace_is_read_with_its_subagents_and_what_is_in_common(tmp_path: Path) -> None:
    calls = [
        {"t": 0, "i": 640, "o": 64, "b": 10, "h": 0, "p": 0, "s": "tool_use", "a": 2.0, "w": None},
        {"subagent": [{"t": 0, "i": 900, "o": 9, "b": 14, "h": 5, "p": 0, "s": "tool_use", "a": 1.0, "w": 0.0}],
         "t": 5.0, "duration_ms": 1000},
        {"t": 9, "i": 1000, "o": 10, "b": 15, "h": 10, "p": 10, "s": "end_turn", "a": None, "w": 7.0},
        {"t": 99, "i": 300, "o": 10, "b": 4, "h": 3, "p": 3, "s": "", "a": 1.0, "w": 80.0},
    ]  # fmt: skip
    path = tmp_path / "sessions.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"id": "x", "calls": calls}).encode() + b"\n"))
    (job,) = kv_cache_tester(path)
    assert [(turn.gap, turn.common, turn.tool) for turn in job.turns] == [
        (0.0, 0, "tool"), (7.0, 704, "user"), (80.0, 3 * PAGE, "")
    ]  # fmt: skip
    (spawn,) = job.spawns
    assert (spawn.after, spawn.delay, spawn.job.base) == (0, 3.0, 5 * PAGE)


def test_traces_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    other = tmp_path / "a" / "other.jsonl"
    other.write_text(json.dumps({"calls": [{"i": 100, "o": 5}, {"subagent": []}, {"i": 110, "o": 5}]}) + "\n")
    (tmp_path / "blocks.jsonl.gz").write_bytes(gzip.compress(json.dumps({"hash_ids": [1]}).encode()))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "LICENSE").write_text("text")
    assert found(tmp_path, "calls") == [other]
    (job,) = kv_cache_tester(other)
    assert (job.key, [turn.common for turn in job.turns]) == ("0", [0, 105]), "what may be missing is"


def test_conversations_without_times_are_read(tmp_path: Path) -> None:
    path = tmp_path / "multi_turn_lengths.jsonl"
    path.write_text(json.dumps({"id": "a", "turns": [{"user_chars": 4, "calls": 2, "call_chars": 9}]}) + "\n")
    assert bfcl(path) == [[(4, 2, 9)]]


def test_made_sessions_are_alike_by_seed_and_say_their_steps() -> None:
    one, same, other = sessions_like(5, 1), sessions_like(5, 1), sessions_like(5, 2)
    assert one == same != other
    turns = [turn for job in one for turn in job.turns]
    assert all((turn.steps is None) == (turn.tool == "user") for turn in turns)
    assert all(0 <= turn.common < turn.inputs for turn in turns)
    starts = bursty(50, random.Random(0))
    assert starts == sorted(starts)
    assert starts[-1] < 1


def test_what_clients_say() -> None:
    job = Job("a", 0.0, [Turn(0.0, 0, 10, 1, "tool"), Turn(5.0, 11, 20, 1, "user")], tenant="a")
    assert [HINTS[name](job, 0, 5.0) for name in ("none", "exact", "tools")] == [None, 5.0, 5.0]
    assert HINTS["tools"](job, 1, 5.0) is None
    assert (lying("a")(job, 0, 5.0), without("a")(job, 0, 5.0), lying("b")(job, 0, 5.0)) == (1.0, None, 5.0)
    said = noisy(1.0)(job, 0, 5.0)
    assert said == noisy(1.0)(job, 0, 5.0) != 5.0


def test_the_law_of_a_device() -> None:
    law = law_of(LLAMA_8B, "h200")
    assert law.weights_s == pytest.approx(16e9 / (4.8e12 * 0.9))
    whole, half = law.prefill_s(0, 2000), law.prefill_s(0, 1000) + law.prefill_s(1000, 2000)
    assert whole == pytest.approx(half)
    assert law.prefill_s(5000, 6000) - law.prefill_s(0, 1000) == pytest.approx(5000 * 1000 * law.pair_s)


def test_percentiles_and_intervals() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / math.sqrt(3)))


def test_of_each_baseline_the_best_setting_is_taken() -> None:
    found = [("a", {"x": 1}, 2.0), ("a", {"x": 2}, 1.5), ("a", {"x": 1}, 1.0), ("a", {"x": 2}, 1.0)]
    assert best(found) == {"a": {"x": 2}}
    assert len(grid("ttl")) == 12
    assert grid("steps") == [{}]


def test_a_cell_with_everybody_in_it() -> None:
    """Small, of made sessions: all policies play the same turns, and those that know more do better."""
    cell = replace(QUICK[1], over=3.0)
    found = run_cell(cell, None, 12, 12, 0, {})
    results = {name: one for name, one in found.items() if not isinstance(one, float)}
    assert len({one.turns for one in results.values()}) == 1
    assert results["clairvoyant"].stall_s <= results["lru-host"].stall_s
    assert found["bound"] <= min(one.stall_s for one in results.values())
    assert isinstance(counts([found]), bool)
    assert len(CELLS) == 25


def test_a_bound_that_can_be_worked_out() -> None:
    """Many large contexts at once: what the pool cannot hold must come over the link."""
    cell = QUICK[1]
    load = cell.load(sessions_like(12, 0), 12, 0)
    free = by_turn(unlimited(load, cell.server()))
    narrow = replace(cell.server(), pool_bytes=cell.server().pool_bytes // 8, link_bytes_s=1e9)
    assert bound_s(load, free, cell.server()) <= bound_s(load, free, narrow)


def test_the_optimum_of_two_sessions_is_the_time_of_a_load() -> None:
    pytest.importorskip("ortools")
    # 60 and 60 pages in a pool of 80; a is used at 0 and 11, b at 10. From 10 on 40 pages of a are missing.
    small = Small((60, 60), ((0.0, 0), (10.0, 1), (11.0, 0)), pool=80, rate=10.0)
    assert optimum(small) == pytest.approx(40 / 10 - 1, abs=1e-3)
    # At the end of its first turn nobody knows yet that b will come: 20 pages of a are there, and must do.
    assert simulated(small, ByValue(**LOADING)) == pytest.approx(3.0, abs=0.3)


def test_no_policy_beats_the_optimum_by_more_than_rounding() -> None:
    pytest.importorskip("ortools")
    for seed in range(2):
        small = drawn(4, 4, seed)
        least = optimum(small)
        assert least is not None
        assert simulated(small, policy_named("clairvoyant", **LOADING)) >= least - 0.3


def test_the_old_load_fills_a_few_per_cent_and_moves_nothing() -> None:
    one = figures(PRESETS["full"], "lru-host", seed=0)
    assert one.filled < 0.1
    assert (one.swaps, one.restores) == (0, 0)
    assert 2 < one.alive < 6
    short = figures(PRESETS["hero"], "lru-host", seed=0)
    assert short.restores > 0


def test_blocks_are_found_from_the_first_one_on() -> None:
    requests = [(0.0, 0, 0, (1, 2, 3)), (1.0, 0, 0, (1, 2, 4)), (2.0, 0, 0, (5,)), (3.0, 0, 0, (1, 2, 3))]
    assert infinite(requests).hits == 5
    assert play(requests, policy_named("lru"), 5).hits == 5
    # Of four places the one used longest ago (3) goes when 5 comes; who knows the future lets 4 go.
    assert play(requests, policy_named("lru"), 4).hits == 4
    assert play(requests, policy_named("clairvoyant"), 4).hits == 5


def test_a_simulation_is_the_same_every_time() -> None:
    cell = QUICK[0]
    load = cell.load(sessions_like(12, 0), 8, 1)
    runs = [Simulation(load, policy_named("djinn"), cell.server(), HINTS["noisy"]).run() for _ in range(2)]
    assert [turn.done for turn in runs[0].played] == [turn.done for turn in runs[1].played]
