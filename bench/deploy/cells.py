"""Cells of data/deploy/workflows: against bounds that no plan can be below, and against other rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.deploy.rules import alpaserve, batches, published, switching
from bench.deploy.workloads import HEADERS, Data, row, simulated
from bench.harness.harness import Report, table
from djinn_fx.solvers.deployment.bounds import bounds_of
from djinn_fx.solvers.deployment.problem import Problem
from djinn_fx.solvers.deployment.search import Aim, search

#: Configuration, requests, devices, devices of a server.
EXCLUSIVE = (("simple", 8, 4), ("simple", 16, 4), ("simple", 32, 4), ("complex", 32, 8), ("complex", 64, 8),
             ("complex", 128, 8))  # fmt: skip
SHARED = (("simple", 8, 4, 1.03), ("simple", 16, 4, 1.03), ("complex", 32, 8, 1.05))
#: How many times as long the published rule takes, at least: with one copy each, and with copies round after round.
ONE_COPY = {("simple", 32): 3.0, ("complex", 64): 3.0, ("complex", 128): 3.0}
SHARED_ONE_COPY = {("simple", 8): 1.8, ("simple", 16): 3.0, ("complex", 32): 2.5}
ROUNDS = {("simple", 32): 1.2, ("complex", 64): 1.5}
#: Node executions that a cell's search simulates; the one with least memory gets more.
CELL_EFFORT, TIGHT_EFFORT = 600_000, 2_500_000


def exclusive(report: Report, data: Data, _: Path, quick: bool) -> None:
    """With one model a device."""
    rows = []
    for name, devices, per_server in EXCLUSIVE[:3] if quick else EXCLUSIVE:
        online = data.problem(name, devices, per_server, exclusive=True)
        for mode, problem in (("online", online), ("offline", replace(online, traffic=online.traffic.offline()))):
            found = search(problem, effort=60_000 if quick else CELL_EFFORT)
            assert found is not None
            here = f"{name} {devices} {mode}, one model a device"
            rows.append(row(here, found.best.measures, found.bounds.makespan))
            assert found.best.measures.completed == problem.traffic.size
            report.bar(f"{here}: makespan over bound", found.best.measures.makespan / found.bounds.makespan, 1.02)
            if mode == "online":
                _published(report, problem, name, devices, found.best.measures.makespan, shared=False)
    print(table(HEADERS, rows), flush=True)


def _published(report: Report, problem: Problem, name: str, devices: int, makespan: float, *, shared: bool) -> None:
    """The published rule in both readings, beside a makespan of ours."""
    here = f"{name} {devices}{' with sharing' if shared else ''}"
    for reading, rounds in (("one copy", False), ("copies by rounds", True)):
        theirs = simulated(problem, published(problem, rounds=rounds))
        lost = problem.traffic.size - theirs.completed
        # A rule that loses requests is worse than any number.
        ratio = 1e9 if lost else theirs.makespan / makespan
        print(f"published rule, {reading}, {here}: {theirs.makespan:.0f} s, {lost} lost; {ratio:.2f} x ours")
        report.fact(f"published, {reading}, {here}", {"makespan": theirs.makespan, "lost": lost, "times_ours": ratio})
        bound = (ROUNDS if rounds else SHARED_ONE_COPY if shared else ONE_COPY).get((name, devices), 1.0)
        report.bar(f"published rule, {reading}, {here}: times ours", ratio, bound, ">=")


def shared(report: Report, data: Data, _: Path, quick: bool) -> None:
    """With several models on a device."""
    rows = []
    for name, devices, per_server, bar in SHARED[:2] if quick else SHARED:
        alone = search(data.problem(name, devices, per_server, exclusive=True), effort=60_000)
        assert alone is not None
        for memory in (80, 48):
            effort = 60_000 if quick else TIGHT_EFFORT if (name, memory) == ("complex", 48) else CELL_EFFORT
            problem = data.problem(name, devices, per_server, memory=memory)
            area = float((problem.work * np.array([m.gang for m in problem.models])).sum()) / devices
            bound = max(area, bounds_of(problem).path)
            found = search(problem, effort=effort)
            inside = search(problem, Aim.CROSSINGS, effort=effort)
            assert found is not None
            assert inside is not None
            here, best = f"{name} {devices} shared, {memory} GB", found.best.measures
            rows += [row(here, best, bound), row(f"{here}, in one server", inside.best.measures, bound)]
            least = min(best.makespan, inside.best.measures.makespan)
            report.bar(f"{here}: makespan over bound", best.makespan / bound, bar)
            report.bar(f"{here}: P99 over that with one model a device", best.p99 / alone.best.measures.p99, 1.0)
            report.bar(f"{here}: SE in one server", inside.best.measures.efficiency, 100.0, ">=")
            report.bar(f"{here}: makespan in one server over the least", inside.best.measures.makespan / least, 1.05)
            offline = replace(problem, traffic=problem.traffic.offline())
            again = search(offline, effort=effort // 2)
            assert again is not None
            rows.append(row(f"{here}, offline", again.best.measures, again.bounds.makespan))
            report.bar(
                f"{here}, offline: makespan over bound", again.best.measures.makespan / again.bounds.makespan, bar
            )
            if memory == 80:
                _published(report, problem, name, devices, best.makespan, shared=True)
    print(table(HEADERS, rows), flush=True)


def rules(report: Report, data: Data, _: Path, quick: bool) -> None:
    """Other rules beside ours."""
    rows = []
    for name, devices, per_server, _bar in SHARED[:2] if quick else SHARED:
        workload = data.simple if name == "simple" else data.complex
        load_s = [one.load_s for one in workload.config.models.values()]
        problem = data.problem(name, devices, per_server)
        found = search(problem, effort=60_000 if quick else CELL_EFFORT)
        assert found is not None
        ours = found.best.measures
        rows.append([f"{name} {devices}", "ours", f"{ours.makespan:.0f}", f"{ours.p99:.0f}"])
        greedy = alpaserve(problem, 4 if quick else 30)
        theirs = simulated(problem, greedy) if greedy is not None else None
        if theirs is not None:
            rows.append(["", "simulation-guided greedy", f"{theirs.makespan:.0f}", f"{theirs.p99:.0f}"])
            report.bar(f"{name} {devices}: greedy over ours", theirs.makespan / found.best.measures.makespan, 1.0, ">=")
        makespan, p99, count = switching(problem, load_s)
        rows.append(["", f"dynamic switching, {count} loads", f"{makespan:.0f}", f"{p99:.0f}"])
        report.bar(f"{name} {devices}: switching over ours", makespan / found.best.measures.makespan, 1.0, ">=")
        offline = search(replace(problem, traffic=problem.traffic.offline()), effort=60_000 if quick else CELL_EFFORT)
        batched = batches(replace(problem, traffic=problem.traffic.offline()), load_s)
        assert offline is not None
        rows.append(["", "all at once: ours", f"{offline.best.measures.makespan:.0f}", ""])
        rows.append(["", "all at once: batches by model", f"{batched:.0f}", ""])
        report.bar(f"{name} {devices}: batches over ours", batched / offline.best.measures.makespan, 1.0, ">=")
    print(table(("cell", "rule", "makespan", "P99"), rows), flush=True)
