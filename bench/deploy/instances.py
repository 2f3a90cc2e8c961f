"""Deployments made from a seed: gangs of 1, 2, 4 and 8, memory 70 to 110 per cent full, 5 to 20 workflows."""

from __future__ import annotations

import random

import numpy as np

from djinn_fx.solvers.deployment.problem import Cluster, Model, Problem, Traffic, Workflow

GB = 10**9


def instance(seed: int, *, models: tuple[int, int] = (6, 20), servers: tuple[int, int] = (1, 16)) -> Problem:
    """One of a family: a seed gives the same one everywhere.

    Args:
        seed: of everything.
        models: how many, at least and at most.
        servers: likewise; fewer where gangs would not fit otherwise.
    """
    chance = random.Random(f"deploy {seed}")
    per_server = chance.choice((4, 8, 8))
    gangs = [g for g in (1, 1, 1, 2, 2, 4, 8) if g <= per_server]
    made = tuple(_model(chance, chance.choice(gangs)) for _ in range(chance.randint(*models)))
    total, largest = sum(one.share * one.gang for one in made), max(one.share for one in made)
    fill = chance.uniform(0.7, 1.1)
    most = max(1, int(total / fill / largest / per_server))
    count = min(chance.randint(*servers), most)
    memory = int(total / (count * per_server * fill)) + 1
    cluster = Cluster.uniform(count * per_server, per_server, max(memory, largest))
    workflows = tuple(_workflow(chance, len(made)) for _ in range(chance.randint(5, 20)))
    return Problem(made, workflows, cluster, _traffic(chance, made, workflows, cluster))


def _model(chance: random.Random, gang: int) -> Model:
    return Model(round(chance.uniform(4, 40) * gang) * GB, gang)


def _workflow(chance: random.Random, models: int) -> Workflow:
    count = chance.randint(1, 7)
    before = tuple(tuple(e for e in range(n) if chance.random() < 1.5 / n) for n in range(count))
    return Workflow(tuple(chance.randrange(models) for _ in range(count)), before)


def _traffic(
    chance: random.Random,
    models: tuple[Model, ...],
    workflows: tuple[Workflow, ...],
    cluster: Cluster,
    count: int = 300,
) -> Traffic:
    """Requests that would keep all devices busy for somewhat longer than they come."""
    weights = [chance.expovariate(1.0) for _ in workflows]
    means = [chance.lognormvariate(1.5, 1.0) for _ in models]
    kinds = chance.choices(range(len(workflows)), weights, k=count)
    times, first = [], [0]
    for kind in kinds:
        times += [max(0.01, chance.gauss(means[m], means[m] / 5)) for m in workflows[kind].models]
        first.append(len(times))
    nodes = [m for kind in kinds for m in workflows[kind].models]
    area = sum(t * models[m].gang for t, m in zip(times, nodes, strict=True)) / cluster.size
    arrival = sorted(chance.uniform(0, 0.8 * area) for _ in kinds)
    return Traffic(np.array(arrival), np.array(kinds, np.int64), np.array(first, np.int64), np.array(times))


def large(models: int = 500, servers: int = 256, requests: int = 10_000, per_server: int = 8) -> Problem:
    """Many models on many servers."""
    chance = random.Random("deploy large")
    made = tuple(_model(chance, chance.choice((1, 1, 1, 1, 2, 2, 4, 8))) for _ in range(models))
    cluster = Cluster.uniform(servers * per_server, per_server, 80 * GB)
    workflows = tuple(_workflow(chance, models) for _ in range(200))
    return Problem(made, workflows, cluster, _traffic(chance, made, workflows, cluster, requests))
