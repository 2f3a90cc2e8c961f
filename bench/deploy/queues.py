"""The simulator: node executions a second, and mean waits against closed forms."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from bench.deploy.workloads import Data
from bench.harness.harness import Report
from djinn_fx.solvers.deployment.problem import Cluster, Discipline, Model, Plan, Problem, Replica, Traffic, Workflow
from djinn_fx.solvers.deployment.search import search
from djinn_fx.solvers.deployment.simulate import simulate


def simulator(report: Report, data: Data, _: Path, quick: bool) -> None:
    """Speed and closed forms."""
    count = 50_000 if quick else 2_000_000
    for copies, fixed in ((1, True), (4, False)):
        for share in (0.5, 0.8):
            problem, plan = _queue(copies, share, fixed=fixed, count=count)
            begun = time.perf_counter()
            outcome = simulate(problem, plan)
            rate = count / (time.perf_counter() - begun)
            wait = float((outcome.start - outcome.ready).mean())
            closed = share / (2 * (1 - share)) if fixed else erlang_c(copies, share) / (copies * (1 - share))
            name = f"M/{'D' if fixed else 'M'}/{copies} at {share}"
            print(f"{name}: mean wait {wait:.4f}, closed form {closed:.4f}, {count} arrivals, {rate:.0f} executions/s")
            report.bar(f"{name}: error of the mean wait", None if quick else abs(wait / closed - 1), 0.02)
            report.bar(f"{name}: executions/s", rate, 100_000, ">=")
    for name, devices, per_server in (("simple", 32, 4), ("complex", 64, 8)):
        problem = data.problem(name, devices, per_server, exclusive=True)
        found = search(problem, effort=0)
        assert found is not None
        begun = time.perf_counter()
        for _turn in range(3):
            simulate(problem, found.best.plan)
        rate = 3 * len(problem.traffic.times) / (time.perf_counter() - begun)
        report.bar(f"{name} {devices}: executions/s", rate, 100_000, ">=")


def _queue(copies: int, share: float, *, fixed: bool, count: int) -> tuple[Problem, Plan]:
    """Poisson arrivals for one model on some devices; services of a second, fixed or exponential."""
    chance = np.random.default_rng(7)
    arrival = np.cumsum(chance.exponential(1 / (share * copies), count))
    times = np.ones(count) if fixed else chance.exponential(1.0, count)
    traffic = Traffic(arrival, np.zeros(count, np.int64), np.arange(count + 1, dtype=np.int64), times)
    problem = Problem((Model(1),), (Workflow((0,), ((),)),), Cluster.uniform(copies, copies, 1), traffic)
    return problem, Plan(tuple(Replica(0, device) for device in range(copies)), Discipline())


def erlang_c(copies: int, share: float) -> float:
    """The chance that an arrival waits in M/M/c (Erlang 1917)."""
    load = copies * share
    last = load**copies / math.factorial(copies) / (1 - share)
    return last / (sum(load**k / math.factorial(k) for k in range(copies)) + last)
