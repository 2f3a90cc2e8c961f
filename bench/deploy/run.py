"""A plan carried out on two one-core devices, beside what the simulator says of it.

Six models in four workflows (``bench/deploy/served.py``). Requests that all come at once say what each model takes
while both devices work; with these means the plan is made, and the run simulated. Then requests come at random times at
70 % of what the devices can do, several times over. Every result of the first run is compared with eager's.

Beside that stands the same rule of who runs what with the times that the nodes of that very run took: what is left then
is what the runner itself adds.

    python bench/deploy/run.py --json bench/results/deploy_run.json
    python bench/deploy/run.py --quick
"""

from __future__ import annotations

import heapq
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from bench.deploy.served import GB, MODELS, WORKFLOWS, config
from bench.harness.harness import Report, parse, parser, table
from djinn_fx.deploy.planning import Planned, Wish, make_plan
from djinn_fx.deploy.reading.requests import made_requests
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.deploy.running.routing import Router
from djinn_fx.deploy.running.runner import Options, Ran, execute
from djinn_fx.solvers.deployment.measures import Measures, measure
from djinn_fx.solvers.deployment.problem import Cluster

#: Devices, each with room for four of the six models.
CLUSTER = Cluster.uniform(2, 2, 4 * GB)
#: Share of the time in which devices work.
LOAD = 0.7
#: How far real figures may be from the simulated ones.
BOUND = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    arguments = parse(parser(__doc__, runs=5), argv)
    report = Report("deploy run", arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DJINN_CACHE_DIR"] = folder
        means = _calibrated(report, 16 if arguments.quick else 60)
        rows = []
        for number in range(arguments.runs):
            workload = _workload(means, 40 if arguments.quick else 200, seed=number)
            planned = make_plan(workload, CLUSTER, Wish(offline=False, effort=20_000))
            ran = execute(workload, CLUSTER, planned.plan, Options(check=number == 0), offline=False)
            rows.append((planned.measures, ran.planned.measures, _replayed(ran)))
            _tell(number, *rows[-1])
            report.fact(f"run {number}: requests that did not end", len(ran.failures))
            if number == 0:
                report.fact("results compared with eager", ran.checked)
                report.bar("results that differ from eager's", len(ran.different), 0)
                report.bar("results not compared", len(workload.traffic.times) - ran.checked, 0)
    _bars(report, rows)
    return report.finish()


def _calibrated(report: Report, count: int) -> dict[str, float]:
    """Mean seconds of each model while both devices work."""
    workload = _workload(dict.fromkeys(MODELS, 0.05), count, seed=99)
    planned = make_plan(workload, CLUSTER, Wish(effort=5_000))
    ran = execute(workload, CLUSTER, planned.plan, Options(), offline=True)
    took = ran.planned.outcome.end - ran.planned.outcome.start
    means = {}
    for number, name in enumerate(MODELS):
        mine = took[ran.planned.problem.model_of == number]
        means[name] = float(mine.mean())
        report.measured(f"service time of {name}", mine.tolist(), "s")
    rows = [[name, f"{1e3 * seconds:.1f}"] for name, seconds in means.items()]
    print(table(("model", "ms a node"), rows), flush=True)
    inside = sum(0.02 <= one <= 0.2 for one in means.values())
    report.fact("models of which a node takes 20 to 200 ms", inside)
    return means


def _workload(means: dict[str, float], count: int, *, seed: int) -> Workload:
    """Requests of the workflows in turn, at random moments."""
    chance = np.random.default_rng(seed)
    kinds = [list(WORKFLOWS)[n % len(WORKFLOWS)] for n in chance.permutation(count).tolist()]
    work = sum(means[model] for kind in kinds for _, model, _ in WORKFLOWS[kind])
    arrival = np.cumsum(chance.exponential(work / count / CLUSTER.size / LOAD, count))
    made = made_requests(config(), zip((arrival - arrival[0]).tolist(), kinds, strict=True), means)
    return replace(made, data=tuple({"seed": n} for n in range(count)))


def _replayed(ran: Ran) -> Measures:
    """The same queues, in the order of what was expected, where every node takes what it took in the run."""
    planned: Planned = ran.planned
    took = (planned.outcome.end - planned.outcome.start).tolist()
    router, arrival = Router(planned.problem, planned.plan), planned.problem.traffic.arrival.tolist()
    events: list[tuple[float, int]] = []
    coming = 0
    while events or coming < len(arrival):
        touched: dict[int, None] = {}
        if events and (coming == len(arrival) or events[0][0] <= arrival[coming]):
            now, node = heapq.heappop(events)
            router.ended(node, now, touched)
        else:
            now = arrival[coming]
            router.arrive(coming, now, touched)
            coming += 1
        for node, _ in router.settle(touched, now):
            heapq.heappush(events, (now + (0.0 if math.isnan(took[node]) else took[node]), node))
    return measure(planned.problem, planned.plan, router.outcome())


def _tell(number: int, foretold: Measures, real: Measures, replayed: Measures) -> None:
    rows = [
        [name, str(one.completed), f"{one.makespan:.3f}", f"{one.median:.3f}", f"{one.p99:.3f}"]
        for name, one in (("simulated", foretold), ("real", real), ("with its own times", replayed))
    ]
    print(f"\nrun {number}\n" + table(("", "requests", "makespan", "median", "P99"), rows), flush=True)


def _bars(report: Report, rows: Sequence[tuple[Measures, Measures, Measures]]) -> None:
    """How far real figures are from both simulations, in the worst of the runs."""
    for place, what in ((0, "simulated"), (2, "with its own times")):
        for name in ("makespan", "p99"):
            pairs = [
                (one[1].makespan, one[place].makespan) if name == "makespan" else (one[1].p99, one[place].p99)
                for one in rows
            ]
            ratios = [real / said for real, said in pairs]
            report.measured(f"{name}: real over {what}", ratios, "ratio")
            if place == 0:
                report.bar(f"{name}: real from {what}, at most", max(abs(one - 1) for one in ratios), BOUND)


if __name__ == "__main__":
    sys.exit(main())
