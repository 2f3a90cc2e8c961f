"""The default plans beside proofs, beside every placement of tiny instances, and on a large one."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.deploy import instances
from bench.deploy.instances import instance
from bench.deploy.workloads import Data
from bench.harness.harness import Report
from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.exhaustive import best_makespan
from djinn_fx.solvers.deployment.placing.exact import available, solve
from djinn_fx.solvers.deployment.search import search, surrogate
from djinn_fx.solvers.deployment.simulate import simulate

#: Seconds of CP-SAT for an instance, of which three fifths go to the load.
SECONDS = 3.0


def exact(report: Report, _: Data, __: Path, quick: bool, *, seeds: range = range(200)) -> None:
    """CP-SAT and the default, one copy of each model."""
    if not available():
        print("CP-SAT is not installed (extra solve): no proofs")
        return
    gaps, ratios, spans, seconds, busy, refused, missed = [], [], [], [], [], 0, 0
    for seed in seeds[:6] if quick else seeds:
        problem = replace(instance(seed), copies=1)
        begun, worked = time.perf_counter(), time.process_time()
        found = search(problem, effort=8_000)
        taken, used = time.perf_counter() - begun, time.process_time() - worked
        proved = solve(problem, SECONDS)
        if proved is None or found is None:
            refused += 1
            missed += found is None and proved is not None
            continue
        seconds.append(taken)
        busy.append(used)
        gaps.append(proved.gap)
        ratios.append(surrogate(problem, found.best.plan.replicas)[0] / proved.load)
        spans.append(found.best.measures.makespan / simulate(problem, proved.plan).makespan)
    print(f"{len(gaps)} instances, {refused} without room for every model")
    print(f"the default's makespan, simulated, over the proved plan's: median {statistics.median(spans):.3f}")
    report.measured("exact gap", gaps, "1")
    report.measured("default over proved load", ratios, "1")
    report.measured("default's makespan over the proved plan's", spans, "1")
    report.measured("default's time", seconds, "s")
    report.measured("default's time of the processor", busy, "s")
    report.fact("instances without room", refused)
    report.bar("exact: instances with room that the default refused", missed, 0)
    _tiny(report, 10 if quick else 60)
    report.bar("exact: largest gap in 3 s", max(gaps), 0.01)
    report.bar("default over proved load, mean", statistics.fmean(ratios), 1.05)
    report.bar("default: longest time in s", max(seconds), 0.5)
    report.bar("default: longest time of the processor in s", max(busy), 0.5)


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
    report.bar("large: memory in GB", found["peak_bytes"] / 1e9, 1.0)


def large_child() -> int:
    """What the process of its own does; returns its exit code."""
    problem = instances.large()
    begun = time.perf_counter()
    found = search(problem)
    taken = time.perf_counter() - begun
    assert found is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    best = found.best.measures
    over = best.makespan / found.bounds.makespan
    print(json.dumps({"seconds": taken, "peak_bytes": peak, "runs": found.runs, "makespan_over_bound": over}))
    return int(best.completed < problem.traffic.size)
