"""A run's figures by name, as all of the forms show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from djinn_fx.deploy.planning import Planned


@dataclass(frozen=True)
class DeviceRow:
    """What one device did.

    Attributes:
        gpu: its number.
        server: that it is in.
        executions: nodes that ran on it, those of gangs too.
        busy_s: seconds in which it worked.
        utilization: the same in per cent of the makespan.
        models: that it hosts.
        memory: bytes that they take.
    """

    gpu: int
    server: int
    executions: int
    busy_s: float
    utilization: float
    models: tuple[str, ...]
    memory: int


@dataclass(frozen=True)
class Execution:
    """One node of one request."""

    request_id: str
    workflow_id: str
    node_id: str
    model_name: str
    gpu_ids: tuple[int, ...]
    server_id: int
    ready: float
    start: float
    end: float
    estimated: float


def device_rows(planned: Planned) -> list[DeviceRow]:
    """Of every device, those without work too."""
    cluster, names, plan = planned.problem.cluster, planned.workload.model_names, planned.plan
    busy, count = np.zeros(cluster.size), np.zeros(cluster.size, np.int64)
    hosted: list[list[str]] = [[] for _ in cluster.server]
    took = planned.outcome.end - planned.outcome.start
    for number, one in enumerate(plan.replicas):
        mine = planned.outcome.replica == number
        devices = slice(one.first, one.first + planned.problem.models[one.model].gang)
        busy[devices] += took[mine].sum()
        count[devices] += int(mine.sum())
        for device in range(devices.start, devices.stop):
            hosted[device].append(names[one.model])
    most, memory = planned.measures.makespan, plan.memory(planned.problem)
    return [
        DeviceRow(
            gpu,
            cluster.server[gpu],
            int(count[gpu]),
            float(busy[gpu]),
            float(100 * busy[gpu] / most) if most else 0.0,
            tuple(sorted(hosted[gpu])),
            memory[gpu],
        )
        for gpu in range(cluster.size)
    ]


def executions(planned: Planned) -> Iterator[Execution]:
    """Every node that ran, in the order of their starts."""
    problem, outcome, workload = planned.problem, planned.outcome, planned.workload
    names = workload.model_names
    nodes = [[one.name for one in rows] for rows in workload.config.workflows.values()]
    workflow_names, request = workload.workflow_names, problem.traffic.request
    for node in np.argsort(outcome.start, kind="stable").tolist():
        ran = int(outcome.replica[node])
        if ran < 0:
            continue
        one, asked = planned.plan.replicas[ran], int(request[node])
        kind = int(problem.traffic.workflow[asked])
        yield Execution(
            workload.requests[asked],
            workflow_names[kind],
            nodes[kind][node - int(problem.traffic.first[asked])],
            names[one.model],
            tuple(range(one.first, one.first + problem.models[one.model].gang)),
            problem.cluster.server[one.first],
            float(outcome.ready[node]),
            float(outcome.start[node]),
            float(outcome.end[node]),
            float(problem.traffic.times[node]),
        )
