"""What a run is judged by: makespan, latency, how many requests stay in one server, how busy devices are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from djinn_fx.solvers.deployment.problem import Floats, Plan, Problem
from djinn_fx.solvers.deployment.simulate import Outcome


@dataclass(frozen=True)
class Measures:
    """Of one run.

    Attributes:
        makespan: when the last node ends, in seconds.
        completed: requests all of whose nodes ran.
        inside: those whose nodes all ran in one server.
        across: those of which some did not.
        crossings: results that went from one server to another.
        crossing_bytes: the same in bytes, where edges say how many.
        mean: of the time from a request's arrival to its end, in seconds.
        median: likewise.
        p99: likewise.
        least: likewise.
        most: likewise.
        devices: that host something.
    """

    makespan: float
    completed: int
    inside: int
    across: int
    crossings: int
    crossing_bytes: int
    mean: float
    median: float
    p99: float
    least: float
    most: float
    devices: int

    @property
    def efficiency(self) -> float:
        """Server efficiency in per cent: requests inside one server, of all. One that did not end counts as a miss."""
        total = self.inside + self.across
        return 100.0 * self.inside / total if total else 100.0

    @property
    def throughput(self) -> float:
        """Requests per second until the last one's end."""
        return self.completed / self.makespan if self.makespan else 0.0


def latencies(problem: Problem, outcome: Outcome) -> Floats:
    """Seconds from each request's arrival to its last node's end; not a number where one never ran."""
    ends = np.maximum.reduceat(outcome.end, problem.traffic.first[:-1])  # one that never ran makes it no number
    return np.asarray(ends - problem.traffic.arrival, np.float64)


def servers_of(problem: Problem, plan: Plan, outcome: Outcome) -> np.ndarray:
    """The server in which each node ran; -1: in none."""
    of_replica = np.array([problem.cluster.server[one.first] for one in plan.replicas] + [-1])
    return of_replica[outcome.replica]


def measure(problem: Problem, plan: Plan, outcome: Outcome) -> Measures:
    """What came of a run."""
    traffic = problem.traffic
    if not traffic.size:
        return Measures(0.0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    took = latencies(problem, outcome)
    ended = ~np.isnan(took)
    server = servers_of(problem, plan, outcome)
    low = np.minimum.reduceat(server, traffic.first[:-1])
    inside = int(((low == np.maximum.reduceat(server, traffic.first[:-1])) & ended).sum())
    crossings = crossing_bytes = 0
    for number, one in enumerate(problem.workflows):
        base = traffic.first[:-1][traffic.workflow == number]
        for node, early in enumerate(one.before):
            for place, before in enumerate(early):
                pair = server[base + before], server[base + node]
                count = int(((pair[0] != pair[1]) & (pair[0] >= 0) & (pair[1] >= 0)).sum())
                crossings += count
                crossing_bytes += count * (one.nbytes[node][place] if one.nbytes else 0)
    some = took[ended] if ended.any() else np.zeros(1)
    return Measures(
        makespan=float(np.nanmax(outcome.end)) if ended.any() else 0.0,
        completed=int(ended.sum()),
        inside=inside,
        across=traffic.size - inside,
        crossings=crossings,
        crossing_bytes=crossing_bytes,
        mean=float(some.mean()),
        median=float(np.median(some)),
        p99=float(np.percentile(some, 99)),
        least=float(some.min()),
        most=float(some.max()),
        devices=sum(1 for taken in plan.memory(problem) if taken),
    )
