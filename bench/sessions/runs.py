"""Runs of one cell and one seed, in a process of their own each, and what bars are made of."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.sessions.cells import GB, HINTS, Cell, lying, without
from bench.sessions.generate import sessions_like
from bench.sessions.judging import Result, bound_s, by_turn, play, unlimited
from bench.sessions.load import Job, Load
from bench.sessions.traces import found, kv_cache_tester
from bench.sessions.tuning import BASELINES
from djinn_fx.sessions.policy.named import policy_named

TENANTS = ("a", "b", "c", "d")
LIAR = "a"
#: Policies without a host, to which the link is nothing: they run in the cells of one link alone.
LINKLESS, THEIR_LINK = ("recompute", "lru"), 25 * GB


@cache
def sessions_of(data: Path | None, generated: int) -> tuple[Job, ...]:
    """Sessions of the open trace, or of a generator that is fitted to it; tenants are given to them in turn."""
    files = found(data, "calls") if data is not None else []
    made = [job for file in files for job in kv_cache_tester(file)] if files else sessions_like(generated, seed=0)
    return tuple(replace(job, tenant=job.tenant or TENANTS[place % 4]) for place, job in enumerate(made))


def run_cell(
    cell: Cell, data: Path | None, generated: int, count: int, seed: int, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Result | float]:
    """Every policy on one load. By name: baselines, "clairvoyant", "lifo", ours as "djinn/" and what clients say."""
    start = time.thread_time()
    load, server = cell.load(sessions_of(data, generated), count, seed), cell.server()
    free = by_turn(unlimited(load, server))
    results: dict[str, Result | float] = {"bound": bound_s(load, free, server), "refused": float(load.refused)}
    for name in (*baselines(cell, load), "lifo", "clairvoyant"):
        # Without a host tier there is none, not one that nobody uses.
        on = replace(server, host_bytes=0) if name in LINKLESS else server
        results[name] = play(load, policy_named(name, **options.get(name, {})), on, free)
    for said, hint in HINTS.items():
        results[f"djinn/{said}"] = play(load, policy_named("djinn"), server, free, hint)
    results["djinn/liar"] = play(load, policy_named("djinn"), server, free, lying(LIAR))
    results["djinn/silent"] = play(load, policy_named("djinn"), server, free, without(LIAR))
    results["seconds"] = time.thread_time() - start
    return results


def baselines(cell: Cell, load: Load) -> list[str]:
    """Those that can differ here: without known steps there is nothing to go by but recency."""
    steps = any(turn.steps is not None for job in load.jobs for turn in job.turns)
    left_out = {"steps"} if not steps else set()
    return [name for name in BASELINES if name not in left_out and (name not in LINKLESS or cell.link == THEIR_LINK)]


def others(result: Result, tenant: str = LIAR) -> float:
    """Stall of all tenants but one."""
    return sum(stall for name, stall in result.by_tenant.items() if name != tenant)


def best_baseline(results: Sequence[Mapping[str, Result | float]], figure: str) -> str:
    """The baseline whose figure adds up to least over seeds."""

    def total(name: str) -> float:
        return sum(float(getattr(one[name], figure)) for one in results)

    return min((name for name in BASELINES if name in results[0]), key=total)
