"""Whether a plan and what was simulated of it keep the rules, looked at slowly and apart from whoever found them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from enum import Enum

from djinn_fx.solvers.deployment.problem import Plan, Problem
from djinn_fx.solvers.deployment.simulate import Outcome
from djinn_fx.solvers.rules import Broken, refuse


class Rule(Enum):
    """What a plan, and a run of it, must hold to."""

    PLACE = "a copy takes consecutive devices of one server, on which its model may be"
    MEMORY = "what a device hosts fits into its memory"
    ONCE = "a device has one copy of a model at most"
    COPIES = "a model has no more copies than asked"
    EXCLUSIVE = "a device hosts one model at most, as asked"
    HOSTED = "every model that a request asks for has a copy"
    GROUP = "where one of a group is, all of it are"
    COMPLETE = "every node runs once, on a copy of its model"
    ARRIVAL = "a node starts after its request has come"
    PRECEDENCE = "a node starts after all that it takes results of have ended"
    DURATION = "a node takes its time, on the slowest device of its gang, and what transfers take"
    DEVICE = "a device runs one node at a time"


def validate(problem: Problem, plan: Plan) -> list[Broken]:
    """Every rule that a plan breaks, and by which copies or models; empty for a valid one."""
    return list(_of_plan(problem, plan))


def check(problem: Problem, plan: Plan) -> Plan:
    """The same plan.

    Raises:
        SolverError: it breaks a rule.
    """
    refuse(validate(problem, plan), f"a deployment found by {plan.found_by}", "copies")
    return plan


def _of_plan(problem: Problem, plan: Plan) -> Iterator[Broken]:
    cluster = problem.cluster
    on: list[list[int]] = [[] for _ in cluster.server]
    for number, one in enumerate(plan.replicas):
        model = problem.models[one.model]
        devices = range(one.first, one.first + model.gang)
        inside = one.first >= 0 and devices.stop <= cluster.size
        if not inside or len({cluster.server[d] for d in devices}) > 1:
            yield Broken(Rule.PLACE, (number,), f"devices {one.first} to {devices.stop - 1}")
            continue
        if model.allowed is not None and not model.allowed.issuperset(devices):
            yield Broken(Rule.PLACE, (number,), f"devices {one.first} to {devices.stop - 1} are not all allowed")
        for device in devices:
            on[device].append(one.model)
    for device, models in enumerate(on):
        taken = sum(math.ceil(problem.models[m].memory / problem.models[m].gang) for m in models)
        if taken > cluster.memory[device]:
            yield Broken(Rule.MEMORY, tuple(models), f"device {device}: {taken} of {cluster.memory[device]} bytes")
        twice = [m for m, count in Counter(models).items() if count > 1]
        if twice:
            yield Broken(Rule.ONCE, tuple(twice), f"device {device}")
        if problem.exclusive and len(models) > 1:
            yield Broken(Rule.EXCLUSIVE, tuple(models), f"device {device}")
    for number, count in Counter(one.model for one in plan.replicas).items():
        if problem.copies is not None and count > problem.copies:
            yield Broken(Rule.COPIES, (number,), f"{count} copies, {problem.copies} allowed")
    there = {one.model for one in plan.replicas}
    asked = {m for w in set(problem.traffic.workflow.tolist()) for m in problem.workflows[w].models}
    if asked - there:
        yield Broken(Rule.HOSTED, tuple(sorted(asked - there)), "no copy")
    for group in problem.groups:
        for server, devices in enumerate(cluster.servers):
            here = {m for d in devices for m in on[d]} & group
            if here and here != group:
                yield Broken(Rule.GROUP, tuple(sorted(group - here)), f"not in server {server}")


def validate_run(problem: Problem, plan: Plan, outcome: Outcome) -> list[Broken]:
    """Every rule that a run breaks, and by which nodes."""
    return list(_of_run(problem, plan, outcome))


def _of_run(problem: Problem, plan: Plan, outcome: Outcome) -> Iterator[Broken]:
    cluster, traffic = problem.cluster, problem.traffic
    rows: list[list[tuple[float, float, int]]] = [[] for _ in cluster.server]
    for request in range(traffic.size):
        base, workflow = int(traffic.first[request]), problem.workflows[int(traffic.workflow[request])]
        for place, model in enumerate(workflow.models):
            node = base + place
            ran = int(outcome.replica[node])
            if not 0 <= ran < len(plan.replicas) or plan.replicas[ran].model != model:
                yield Broken(Rule.COMPLETE, (node,), f"ran on copy {ran}, is of model {model}")
                continue
            first = plan.replicas[ran].first
            devices = range(first, first + problem.models[model].gang)
            start, end = float(outcome.start[node]), float(outcome.end[node])
            if start < traffic.arrival[request]:
                yield Broken(Rule.ARRIVAL, (node,), f"{start} before {traffic.arrival[request]}")
            moved = 0.0
            for edge, early in enumerate(workflow.before[place]):
                if start < outcome.end[base + early]:
                    yield Broken(Rule.PRECEDENCE, (base + early, node), f"{start} before {outcome.end[base + early]}")
                source = plan.replicas[int(outcome.replica[base + early])].first
                if cluster.server[source] != cluster.server[first]:
                    nbytes = workflow.nbytes[place][edge] if workflow.nbytes else 0
                    moved += cluster.latency + (nbytes / cluster.bandwidth if cluster.bandwidth else 0.0)
            takes = float(traffic.times[node]) * max(cluster.slowness[d] for d in devices) + moved
            if not math.isclose(end - start, takes, rel_tol=1e-9, abs_tol=1e-6):
                yield Broken(Rule.DURATION, (node,), f"{end - start} instead of {takes} s")
            for device in devices:
                rows[device].append((start, end, node))
    for device, row in enumerate(rows):
        row.sort()
        for (_, end, one), (start, _, other) in itertools.pairwise(row):
            if start < end:
                yield Broken(Rule.DEVICE, (one, other), f"device {device}: {start} before {end}")
