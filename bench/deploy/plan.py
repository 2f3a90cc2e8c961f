"""Plans of which model lives on which device: against bounds, against other rules, against a proof, and on another day.

* Cells: workflows of data/deploy/workflows at several numbers of devices, with one model a device and with sharing, all
  requests at their times (and all at once). Bounds are those that no plan can be below.
* Rules: the published one in both readings, simulation-guided greedy, dynamic switching, batches by model.
* Exact: CP-SAT on instances made from seeds, one copy of each model; the default beside it.
* Large: 500 models, 256 servers, 10,000 requests, in a process of its own whose memory is measured.
* Another day: the plan of one day on the requests of the next, and on services that take half as long again.
* Simulator: node executions a second, and mean waits against closed forms.

    python bench/deploy/plan.py --json bench/results/deploy_plan.json
    python bench/deploy/plan.py --quick
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from bench.deploy.instances import instance, large
from bench.deploy.rules import alpaserve, batches, published, switching
from bench.deploy.servegen import day
from bench.harness.harness import Report, parse, parser, table
from djinn_fx.deploy.planning import Wish, make_plan
from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.requests import read_requests
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.bounds import bounds_of
from djinn_fx.solvers.deployment.exhaustive import best_makespan
from djinn_fx.solvers.deployment.measures import Measures, measure
from djinn_fx.solvers.deployment.placing.exact import available, solve
from djinn_fx.solvers.deployment.problem import Cluster, Discipline, Model, Plan, Problem, Replica, Traffic, Workflow
from djinn_fx.solvers.deployment.search import Aim, search, surrogate
from djinn_fx.solvers.deployment.simulate import simulate

GB = 10**9
#: Configuration, requests, devices, devices of a server.
EXCLUSIVE = (("simple", 8, 4), ("simple", 16, 4), ("simple", 32, 4), ("complex", 32, 8), ("complex", 64, 8),
             ("complex", 128, 8))  # fmt: skip
SHARED = (("simple", 8, 4, 1.03), ("simple", 16, 4, 1.03), ("complex", 32, 8, 1.05))
FILES = {"simple": ("simple_config.json", "simple_requests.yaml"),
         "complex": ("complex_config.yaml", "complex_requests.json")}  # fmt: skip
#: How many times as long the published rule takes, at least: with one copy each, and with copies round after round.
ONE_COPY = {("simple", 32): 3.0, ("complex", 64): 3.0, ("complex", 128): 3.0}
SHARED_ONE_COPY = {("simple", 8): 1.8, ("simple", 16): 3.0, ("complex", 32): 2.5}
ROUNDS = {("simple", 32): 1.2, ("complex", 64): 1.5}
#: Seconds of CP-SAT for an instance, of which three fifths go to the load.
SECONDS = 3.0
#: Node executions that a cell's search simulates; the one with least memory gets more.
CELL_EFFORT, TIGHT_EFFORT = 600_000, 2_500_000


@dataclass(frozen=True, eq=False)
class Data:
    """The workloads by name."""

    simple: Workload
    complex: Workload

    def problem(
        self, name: str, devices: int, per_server: int, *, memory: int = 80, exclusive: bool = False
    ) -> Problem:
        """A cell."""
        workload = self.simple if name == "simple" else self.complex
        return workload.problem(Cluster.uniform(devices, per_server, memory * GB), exclusive=exclusive)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--large-child", action="store_true", help=argparse.SUPPRESS)
    arguments = parse(made, argv)
    if arguments.large_child:
        return _large_child()
    report = Report("deploy_plan", arguments)
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = arguments.data or Path(os.environ.get("DJINN_BENCH_DATA", default)) / "deploy"
    data = _read(folder / "workflows")
    for part in arguments.only:
        PARTS[part](report, data, folder, arguments.quick)
    return report.finish()


def _read(folder: Path) -> Data:
    found = []
    for config, requests in FILES.values():
        faults = Faults()
        found.append(read_requests(folder / requests, read_config(folder / config, faults), faults))
    return Data(*found)


def _run(problem: Problem, plan: Plan) -> Measures:
    return measure(problem, plan, simulate(problem, plan))


def _row(name: str, found: Measures, bound: float) -> list[str]:
    return [name, f"{found.makespan:.0f}", f"{found.makespan / bound:.4f}", f"{found.p99:.0f}",
            f"{found.efficiency:.0f}", str(found.crossings)]  # fmt: skip


HEADERS = ("cell", "makespan", "of bound", "P99", "SE %", "CSC")


# -- cells -------------------------------------------------------------------------------------------------------------


def _exclusive(report: Report, data: Data, _: Path, quick: bool) -> None:
    rows = []
    for name, devices, per_server in EXCLUSIVE[:3] if quick else EXCLUSIVE:
        online = data.problem(name, devices, per_server, exclusive=True)
        for mode, problem in (("online", online), ("offline", replace(online, traffic=online.traffic.offline()))):
            found = search(problem, effort=60_000 if quick else CELL_EFFORT)
            assert found is not None
            here = f"{name} {devices} {mode}, one model a device"
            rows.append(_row(here, found.best.measures, found.bounds.makespan))
            assert found.best.measures.completed == problem.traffic.size
            report.bar(f"{here}: makespan over bound", found.best.measures.makespan / found.bounds.makespan, 1.02)
            if mode == "online":
                _published(report, problem, name, devices, found.best.measures.makespan, shared=False)
    print(table(HEADERS, rows), flush=True)


def _published(report: Report, problem: Problem, name: str, devices: int, makespan: float, *, shared: bool) -> None:
    """The published rule in both readings, beside a makespan of ours."""
    here = f"{name} {devices}{' with sharing' if shared else ''}"
    for reading, rounds in (("one copy", False), ("copies by rounds", True)):
        theirs = _run(problem, published(problem, rounds=rounds))
        lost = problem.traffic.size - theirs.completed
        # A rule that loses requests is worse than any number.
        ratio = 1e9 if lost else theirs.makespan / makespan
        print(f"published rule, {reading}, {here}: {theirs.makespan:.0f} s, {lost} lost; {ratio:.2f} x ours")
        report.fact(f"published, {reading}, {here}", {"makespan": theirs.makespan, "lost": lost, "times_ours": ratio})
        bound = (ROUNDS if rounds else SHARED_ONE_COPY if shared else ONE_COPY).get((name, devices), 1.0)
        report.bar(f"published rule, {reading}, {here}: times ours", ratio, bound, ">=")


def _shared(report: Report, data: Data, _: Path, quick: bool) -> None:
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
            rows += [_row(here, best, bound), _row(f"{here}, in one server", inside.best.measures, bound)]
            least = min(best.makespan, inside.best.measures.makespan)
            report.bar(f"{here}: makespan over bound", best.makespan / bound, bar)
            report.bar(f"{here}: P99 over that with one model a device", best.p99 / alone.best.measures.p99, 1.0)
            report.bar(f"{here}: SE in one server", inside.best.measures.efficiency, 100.0, ">=")
            report.bar(f"{here}: makespan in one server over the least", inside.best.measures.makespan / least, 1.05)
            offline = replace(problem, traffic=problem.traffic.offline())
            again = search(offline, effort=effort // 2)
            assert again is not None
            rows.append(_row(f"{here}, offline", again.best.measures, again.bounds.makespan))
            report.bar(
                f"{here}, offline: makespan over bound", again.best.measures.makespan / again.bounds.makespan, bar
            )
            if memory == 80:
                _published(report, problem, name, devices, best.makespan, shared=True)
    print(table(HEADERS, rows), flush=True)


# -- other rules -------------------------------------------------------------------------------------------------------


def _rules(report: Report, data: Data, _: Path, quick: bool) -> None:
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
        theirs = _run(problem, greedy) if greedy is not None else None
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


# -- a proof beside the default ----------------------------------------------------------------------------------------


def _exact(report: Report, _: Data, __: Path, quick: bool) -> None:
    if not available():
        print("CP-SAT is not installed (extra solve): no proofs")
        return
    gaps, ratios, spans, seconds, refused, missed = [], [], [], [], 0, 0
    for seed in range(6 if quick else 200):
        problem = replace(instance(seed), copies=1)
        begun = time.perf_counter()
        found = search(problem, effort=8_000)
        taken = time.perf_counter() - begun
        proved = solve(problem, SECONDS)
        if proved is None or found is None:
            refused += 1
            missed += found is None and proved is not None
            continue
        seconds.append(taken)
        gaps.append(proved.gap)
        ratios.append(surrogate(problem, found.best.plan.replicas)[0] / proved.load)
        spans.append(found.best.measures.makespan / simulate(problem, proved.plan).makespan)
    print(f"{len(gaps)} instances, {refused} without room for every model")
    print(f"the default's makespan, simulated, over the proved plan's: median {statistics.median(spans):.3f}")
    report.measured("exact gap", gaps, "1")
    report.measured("default over proved load", ratios, "1")
    report.measured("default's makespan over the proved plan's", spans, "1")
    report.measured("default's time", seconds, "s")
    report.fact("instances without room", refused)
    report.bar("exact: instances with room that the default refused", missed, 0)
    _tiny(report, 10 if quick else 60)
    report.bar("exact: largest gap in 3 s", max(gaps), 0.01)
    report.bar("default over proved load, mean", statistics.fmean(ratios), 1.05)
    report.bar("default: longest time in s", max(seconds), 0.5)


def _tiny(report: Report, count: int) -> None:
    """The default against every placement, where these can all be looked at."""
    ratios = []
    for seed in range(count):
        problem = replace(instance(seed, models=(2, 3), servers=(1, 1)), copies=1)
        try:
            best = best_makespan(problem)
        except SolverError:
            continue
        found = search(problem, effort=20_000)
        assert (found is None) == (best is None)
        if found is not None and best is not None:
            ratios.append(found.front[0].measures.makespan / best[0])
    report.measured("default's makespan over that of the best placement of all", ratios, "1")
    report.bar("default's makespan over that of the best placement of all, mean", statistics.fmean(ratios), 1.01)


def _large(report: Report, _: Data, __: Path, quick: bool) -> None:
    if quick:
        return
    done = subprocess.run(
        [sys.executable, __file__, "--large-child"], capture_output=True, text=True, check=True, timeout=600
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"500 models, 256 servers, 10,000 requests: {found}")
    report.fact("large", found)
    report.bar("large: seconds", found["seconds"], 30.0)
    report.bar("large: memory in GB", found["peak_bytes"] / 1e9, 1.0)


def _large_child() -> int:
    problem = large()
    begun = time.perf_counter()
    found = search(problem)
    taken = time.perf_counter() - begun
    assert found is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    best = found.best.measures
    over = best.makespan / found.bounds.makespan
    print(json.dumps({"seconds": taken, "peak_bytes": peak, "runs": found.runs, "makespan_over_bound": over}))
    return int(best.completed < problem.traffic.size)


# -- another day -------------------------------------------------------------------------------------------------------


def _another_day(report: Report, data: Data, folder: Path, quick: bool) -> None:
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
        kept = _run(second, old.best.plan).p99
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


def _more_devices(report: Report, data: Data, _: Path, quick: bool) -> None:
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


# -- the simulator -----------------------------------------------------------------------------------------------------


def _simulator(report: Report, data: Data, _: Path, quick: bool) -> None:
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


PARTS: dict[str, Any] = {
    "exclusive": _exclusive,
    "shared": _shared,
    "rules": _rules,
    "exact": _exact,
    "large": _large,
    "another-day": _another_day,
    "more-devices": _more_devices,
    "simulator": _simulator,
}


if __name__ == "__main__":
    sys.exit(main())
