"""The plan of one day on the requests of another; and more devices, which are never worse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.deploy.servegen import day
from bench.deploy.workloads import GB, Data, simulated
from bench.harness.harness import Report, table
from djinn_fx.deploy.planning import Wish, make_plan
from djinn_fx.solvers.deployment.problem import Cluster, Problem, Traffic
from djinn_fx.solvers.deployment.search import Aim, search


def another_day(report: Report, data: Data, folder: Path, quick: bool) -> None:
    """Regret of a plan that stays."""
    cases: list[tuple[str, Problem, Problem]] = []
    one, shrink = day(folder / "servegen" / "data", 1, 2_000 if quick else 6_000)
    two, _ = day(folder / "servegen" / "data", 2, 2_000 if quick else 6_000, shrink=shrink)
    cases += [("ServeGen, the next day", one, two), ("ServeGen, services 1.5 x", one, _slower(one))]
    for name, devices, per_server in (("simple", 32, 4), ("complex", 64, 8)):
        problem = data.problem(name, devices, per_server)
        cases += [(f"{name} {devices}, other requests", problem, _resampled(problem))]
        cases += [(f"{name} {devices}, services 1.5 x", problem, _slower(problem))]
    rows = []
    for what, first, second in cases[:2] if quick else cases:
        effort = 60_000 if quick else 300_000
        old, new = search(first, Aim.P99, effort=effort), search(second, Aim.P99, effort=effort)
        assert old is not None
        assert new is not None
        kept = simulated(second, old.best.plan).p99
        best = min(new.best.measures.p99, kept)
        rows.append([what, f"{kept:.1f}", f"{best:.1f}", f"{kept / best - 1:.3f}"])
        report.bar(f"{what}: P99 regret", kept / best - 1, 0.20)
    print(table(("another day", "P99 of the old plan", "planned anew", "regret"), rows), flush=True)


def _slower(problem: Problem) -> Problem:
    return replace(problem, traffic=problem.traffic.slower(1.5))


def _resampled(problem: Problem, seed: int = 1) -> Problem:
    """As many requests, drawn from the same ones, in other shares of workflows, at new times."""
    chance, traffic = np.random.default_rng(seed), problem.traffic
    weight = chance.uniform(0.7, 1.3, len(problem.workflows))[traffic.workflow]
    picked = chance.choice(traffic.size, traffic.size, p=weight / weight.sum())
    arrival = np.sort(chance.uniform(0, traffic.arrival[-1], traffic.size))
    lengths = np.diff(traffic.first)[picked]
    first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = np.concatenate([traffic.times[traffic.first[n] : traffic.first[n + 1]] for n in picked])
    return replace(problem, traffic=Traffic(arrival, traffic.workflow[picked], first, times))


def more_devices(report: Report, data: Data, _: Path, quick: bool) -> None:
    """Makespans of growing numbers of devices."""
    worse, rows = 0.0, []
    series = [("simple", 4, range(8, 37, 4)), ("complex", 8, range(16, 89, 8))]
    for name, per_server, counts in series[:1] if quick else series:
        last = math.inf
        for devices in list(counts)[:4] if quick else counts:
            workload = data.simple if name == "simple" else data.complex
            wish = Wish(offline=False, effort=40_000 if quick else 120_000)
            planned = make_plan(workload, Cluster.uniform(devices, per_server, 80 * GB), wish)
            rows.append([f"{name} {devices}", f"{planned.measures.makespan:.1f}"])
            worse = max(worse, planned.measures.makespan / last - 1)
            last = min(last, planned.measures.makespan)
    print(table(("devices", "makespan"), rows), flush=True)
    report.bar("more devices: a makespan above that of fewer, by", worse, 0.0)
