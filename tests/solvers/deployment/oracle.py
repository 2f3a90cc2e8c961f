"""Random small deployments, and what a queue does worked out in other ways."""

from __future__ import annotations

import random

import numpy as np

from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Cluster, Discipline, Model, Plan, Problem, Replica, Traffic, Workflow


def traffic_of(workflows: tuple[Workflow, ...], rows: list[tuple[float, int]], times: list[float]) -> Traffic:
    """Requests given as arrival and workflow, with the times of all their nodes in a row."""
    lengths = [len(workflows[kind].models) for _, kind in rows]
    return Traffic(
        np.array([arrival for arrival, _ in rows], float),
        np.array([kind for _, kind in rows], np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array(times, float),
    )


def some_problem(seed: int, *, tiny: bool = False, requests: int = 25) -> Problem:
    """A few models of gangs of 1, 2 and 4 on a few servers, with random workflows and whole seconds."""
    chance = random.Random(seed)
    per_server = chance.choice((2,) if tiny else (2, 4))
    devices = per_server * chance.randint(1, 2 if tiny else 3)
    gangs = [g for g in (1, 1, 2, 4) if g <= per_server]
    models = tuple(
        Model(chance.randint(1, 6) * 8, chance.choice(gangs)) for _ in range(chance.randint(1, 3 if tiny else 5))
    )
    workflows = []
    for _ in range(chance.randint(1, 3)):
        count = chance.randint(1, 4)
        before = tuple(tuple(e for e in range(n) if chance.random() < 0.5) for n in range(count))
        workflows.append(Workflow(tuple(chance.randrange(len(models)) for _ in range(count)), before))
    rows = sorted((float(chance.randint(0, 60)), chance.randrange(len(workflows))) for _ in range(requests))
    nodes = sum(len(workflows[kind].models) for _, kind in rows)
    slow = tuple(chance.choice((1.0, 1.0, 2.0)) for _ in range(devices)) if chance.random() < 0.3 else (1.0,) * devices
    cluster = Cluster(tuple(d // per_server for d in range(devices)), (chance.choice((64, 120)),) * devices, slow)
    times = [float(chance.randint(0, 9)) for _ in range(nodes)]
    return Problem(models, tuple(workflows), cluster, traffic_of(tuple(workflows), rows, times))


def some_plan(problem: Problem, seed: int) -> Plan | None:
    """Copies put at random, each used model at least once if there is room; any discipline."""
    chance, room = random.Random(seed), Room(problem)
    order = list(problem.used)
    chance.shuffle(order)
    for model in sorted(order, key=lambda m: -problem.models[m].gang):
        found = room.candidates(model)
        if not found:
            return None
        room.put(chance.choice(found))
    for _ in range(chance.randint(0, 6)):
        found = [one for model in order for one in room.candidates(model)]
        if found:
            room.put(chance.choice(found))
    discipline = Discipline(chance.choice((0, 0, 5, 50)), chance.random() < 0.4, chance.random() < 0.3)
    return Plan(room.sorted, discipline, "chance")


def one_queue(times: list[float], arrival: list[float], copies: int) -> Problem:
    """Requests of one node each for one model that fills a device."""
    workflows = (Workflow((0,), ((),)),)
    rows = [(at, 0) for at in arrival]
    return Problem((Model(1),), workflows, Cluster.uniform(copies, copies, 1), traffic_of(workflows, rows, times))


def everywhere(problem: Problem) -> Plan:
    """A copy of the only model on each device."""
    return Plan(tuple(Replica(0, device) for device in range(problem.cluster.size)))
