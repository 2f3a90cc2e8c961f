"""A plan carried out on two one-core devices, beside what the simulator says of it.

Six models in four workflows (``bench/deploy/served.py``). Requests come at random times at 70 % of what the devices can
do, several times over. The nodes of each run say what models take in the next one: cores that work side by side slow
each other down, so times of devices that are always busy, or never both, are not those of this traffic. (A run that is
not counted stands before the first; how fast its requests come is told by some that all come at once.) With the means
the plan is made; the run is simulated many times over, each node with one of its model's measured times. Every result
of the first run is compared with eager's.

Beside that stand two others: a simulation in which every node takes its model's mean, and the same rule of who runs
what with the times that the nodes of that very run took. What is left in the last is what the runner itself adds.

    python bench/deploy/run.py --json bench/results/deploy_run.json
    python bench/deploy/run.py --quick
"""

from __future__ import annotations

import heapq
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from djinn_fx.solvers.deployment.problem import Cluster, Plan, Problem

#: Devices, each with room for four of the six models.
CLUSTER = Cluster.uniform(2, 2, 4 * GB)
#: Share of the time in which devices work.
LOAD = 0.7
#: Simulations with drawn times, of which the mean is what is foretold.
DRAWS = 40
#: Runs of every copy before a clock starts: contests of engines are over then.
WARM = 6
#: How far real figures may be from the simulated ones.
BOUND = 0.15


#: What stands beside the real run, by the field of a row.
SIMULATED = {"drawn": "simulated", "means": "simulated with means", "own": "with its own times"}


@dataclass(frozen=True)
class Row:
    """A run and its simulations: with times drawn from measured ones, with means, with its own times."""

    real: Measures
    drawn: Measures
    means: Measures
    own: Measures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    arguments = parse(parser(__doc__, runs=5), argv)
    report = Report("deploy run", arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DJINN_CACHE_DIR"] = folder
        rows: list[Row] = []
        times = _calibrated(16 if arguments.quick else 60)
        for number in range(-1, arguments.runs):
            workload = _workload(_means(times), 40 if arguments.quick else 200, seed=number + 1)
            planned = make_plan(workload, CLUSTER, Wish(offline=False, effort=20_000))
            drawn = _drawn(planned, times, 4 if arguments.quick else DRAWS)
            ran = execute(workload, CLUSTER, planned.plan, Options(check=number == 0, warm=WARM), offline=False)
            outcome, before, times = ran.planned.outcome, times, _times(ran)
            if number < 0:
                continue
            _services(report, number, before)
            again = _replayed(ran.planned.problem, planned.plan, (outcome.end - outcome.start).tolist())
            rows.append(Row(ran.planned.measures, drawn, planned.measures, again))
            _tell(number, rows[-1])
            report.fact(f"run {number}: requests that did not end", len(ran.failures))
            if number == 0:
                report.fact("results compared with eager", ran.checked)
                report.bar("results that differ from eager's", len(ran.different), 0)
                report.bar("results not compared", len(workload.traffic.times) - ran.checked, 0)
    _bars(report, rows)
    return report.finish()


def _calibrated(count: int) -> dict[str, list[float]]:
    """Seconds that nodes of each model take where all requests come at once."""
    workload = _workload(dict.fromkeys(MODELS, 0.05), count, seed=99)
    planned = make_plan(workload, CLUSTER, Wish(effort=5_000))
    return _times(execute(workload, CLUSTER, planned.plan, Options(warm=WARM), offline=True))


def _times(ran: Ran) -> dict[str, list[float]]:
    """Seconds of each model's nodes in a run."""
    outcome = ran.planned.outcome
    took, model_of = outcome.end - outcome.start, ran.planned.problem.model_of
    return {name: took[(model_of == number) & np.isfinite(took)].tolist() for number, name in enumerate(MODELS)}


def _services(report: Report, run: int, times: dict[str, list[float]]) -> None:
    """What a run is foretold with."""
    means = _means(times)
    for name, mine in times.items():
        report.measured(f"run {run}: service time of {name} before it", mine, "s")
    rows = [[name, f"{1e3 * means[name]:.1f}", f"{1e3 * max(mine):.1f}"] for name, mine in times.items()]
    print("\n" + table(("model", "ms a node", "at most"), rows), flush=True)
    report.fact(f"run {run}: models of which a node takes 20 to 200 ms", sum(0.02 <= s <= 0.2 for s in means.values()))


def _means(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.fmean(mine) for name, mine in times.items()}


def _drawn(planned: Planned, times: dict[str, list[float]], draws: int) -> Measures:
    """What is foretold where each node takes one of its model's measured times: the mean of many simulations."""
    chance, model_of = np.random.default_rng(5), planned.problem.model_of
    found = []
    for _ in range(draws):
        took = np.empty(len(model_of))
        for number, name in enumerate(MODELS):
            mine = model_of == number
            took[mine] = chance.choice(times[name], int(mine.sum()))
        found.append(_replayed(planned.problem, planned.plan, took.tolist()))
    makespan, p99 = (statistics.fmean(getattr(one, name) for one in found) for name in ("makespan", "p99"))
    return replace(found[0], makespan=makespan, p99=p99, median=statistics.fmean(one.median for one in found))


def _workload(means: dict[str, float], count: int, *, seed: int) -> Workload:
    """Requests of the workflows in turn, at random moments."""
    chance = np.random.default_rng(seed)
    kinds = [list(WORKFLOWS)[n % len(WORKFLOWS)] for n in chance.permutation(count).tolist()]
    work = sum(means[model] for kind in kinds for _, model, _ in WORKFLOWS[kind])
    arrival = np.cumsum(chance.exponential(work / count / CLUSTER.size / LOAD, count))
    made = made_requests(config(), zip((arrival - arrival[0]).tolist(), kinds, strict=True), means)
    return replace(made, data=tuple({"seed": n} for n in range(count)))


def _replayed(problem: Problem, plan: Plan, took: Sequence[float]) -> Measures:
    """The runner's queues, in the order of what was expected, where every node takes what is given here."""
    router, arrival = Router(problem, plan), problem.traffic.arrival.tolist()
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
    return measure(problem, plan, router.outcome())


def _tell(number: int, row: Row) -> None:
    rows = [
        [name, str(one.completed), f"{one.makespan:.3f}", f"{one.median:.3f}", f"{one.p99:.3f}"]
        for name, one in (("real", row.real), *((what, getattr(row, place)) for place, what in SIMULATED.items()))
    ]
    print(f"\nrun {number}\n" + table(("", "requests", "makespan", "median", "P99"), rows), flush=True)


def _bars(report: Report, rows: Sequence[Row]) -> None:
    """How far real figures are from each simulation, in the worst of the runs."""
    for place, what in SIMULATED.items():
        for name in ("makespan", "p99"):
            ratios = [getattr(one.real, name) / getattr(getattr(one, place), name) for one in rows]
            report.measured(f"{name}: real over {what}", ratios, "ratio")
            if place == "drawn":
                report.bar(f"{name}: real from {what}, at most", max(abs(one - 1) for one in ratios), BOUND)


if __name__ == "__main__":
    sys.exit(main())
