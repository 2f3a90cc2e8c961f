"""The default plans beside proofs, beside every placement of tiny instances, and on a large one."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.deploy import instances
from bench.deploy.instances import instance
from bench.deploy.workloads import Data
from bench.harness.harness import Journal, Report
from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.exhaustive import best_makespan
from djinn_fx.solvers.deployment.placing.exact import available, solve
from djinn_fx.solvers.deployment.search import search, surrogate
from djinn_fx.solvers.deployment.simulate import simulate

#: Instances, and seconds of CP-SAT for each, all for the load.
COUNT, SECONDS = 200, 10.0


def exact(report: Report, _: Data, __: Path, quick: bool, *, journal: Journal) -> None:
    """CP-SAT and the default, one copy of each model."""
    if not available():
        print("CP-SAT is not installed (extra solve): no proofs")
        return
    rows = [journal.once(f"instance {seed}", partial(_instance, seed)) for seed in range(6 if quick else COUNT)]
    both = [one for one in rows if one["gap"] is not None and one["ratio"] is not None]
    print(f"{len(both)} instances, {len(rows) - len(both)} without room for every model")
    names = {
        "gap": "exact gap",
        "ratio": "default over proved load",
        "span": "default's makespan over the proved plan's",
    }
    for name, what in names.items():
        report.measured(what, [one[name] for one in both], "1")
    report.measured("default's time", [one["seconds"] for one in both], "s")
    report.measured("default's time of the processor", [one["busy_s"] for one in both], "s")
    report.fact("instances without room", len(rows) - len(both))
    missed = sum(one["gap"] is not None and one["ratio"] is None for one in rows)
    report.bar("exact: instances with room that the default refused", missed, 0)
    _tiny(report, 10 if quick else 60)
    report.bar(f"exact: largest gap in {SECONDS:g} s", max(one["gap"] for one in both), 0.01)
    report.bar("default over proved load, mean", statistics.fmean(one["ratio"] for one in both), 1.05)
    report.bar("default: longest time in s", max(one["seconds"] for one in both), 0.5)
    report.bar("default: longest time of the processor in s", max(one["busy_s"] for one in both), 0.5)
    journal.done()


def _instance(seed: int) -> dict[str, float | None]:
    """One of the family: what CP-SAT proves of it, and the default beside that; None where either found no room."""
    problem = replace(instance(seed), copies=1)
    begun, worked = time.perf_counter(), time.process_time()
    found = search(problem, effort=8_000)
    seconds, busy = time.perf_counter() - begun, time.process_time() - worked
    proved = solve(problem, SECONDS, hint=found.best.plan if found is not None else None, load_alone=True)
    both = found is not None and proved is not None
    return {
        "seconds": seconds,
        "busy_s": busy,
        "gap": proved.gap if proved is not None else None,
        "ratio": surrogate(problem, found.best.plan.replicas)[0] / proved.load if both else None,
        "span": found.best.measures.makespan / simulate(problem, proved.plan).makespan if both else None,
    }


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


def large(report: Report, _: Data, __: Path, quick: bool) -> None:
    """Seconds and memory of a plan for many models on many servers."""
    if quick:
        return
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("plan.py")), "--large-child"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"500 models, 256 servers, 10,000 requests: {found}")
    report.fact("large", found)
    report.bar("large: seconds", found["seconds"], 30.0)
    report.bar("large: seconds of the processor", found["busy_s"], 30.0)
    report.bar("large: memory in GB", found["peak_bytes"] / 1e9, 1.0)


def large_child() -> int:
    """What the process of its own does; returns its exit code."""
    problem = instances.large()
    begun, worked = time.perf_counter(), time.process_time()
    found = search(problem)
    taken, busy = time.perf_counter() - begun, time.process_time() - worked
    assert found is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    best = found.best.measures
    over = best.makespan / found.bounds.makespan
    print(
        json.dumps(
            {"seconds": taken, "busy_s": busy, "peak_bytes": peak, "runs": found.runs, "makespan_over_bound": over}
        )
    )
    return int(best.completed < problem.traffic.size)
