"""Placements in which every request can stay in one server: each server has all models of some of the workflows."""

from __future__ import annotations

import random

import numpy as np

from djinn_fx.solvers.deployment.placing.greedy import filled
from djinn_fx.solvers.deployment.placing.room import Room, best_first
from djinn_fx.solvers.deployment.problem import Problem


def inside_servers(problem: Problem, *, seed: int = 0) -> Room | None:
    """A copy of every model of a server's workflows, and then more of them; None where that finds no room.

    Args:
        problem: what is deployed.
        seed: 0: every server takes all workflows; another one: some of them, by chance.
    """
    chance = random.Random(seed)
    taken = _workflows(problem, chance) if seed else [_asked(problem) for _ in problem.cluster.servers]
    room = Room(problem)
    wanted: dict[int, set[int]] = {model: set() for model in range(len(problem.models))}
    for server, workflows in enumerate(taken):
        models = {m for w in workflows for m in problem.workflows[w].models}
        if not _placed(room, server, models, chance if seed else None):
            return None
        for model in models:
            wanted[model].add(server)
    for group in problem.groups:
        if any(0 < len(group & room.hosted(server)) < len(group) for server in range(len(taken))):
            return None
    return filled(room, seed=seed, servers=wanted)


def _asked(problem: Problem) -> list[int]:
    return sorted(set(problem.traffic.workflow.tolist()))


def _workflows(problem: Problem, chance: random.Random) -> list[set[int]]:
    """For each server the workflows that it takes: each at least in one server, no server without any."""
    asked, servers = _asked(problem), range(len(problem.cluster.servers))
    keep = chance.choice((0.4, 0.6, 0.8))
    found = [{w for w in asked if chance.random() < keep} for _ in servers]
    for workflow in asked:
        if not any(workflow in one for one in found):
            found[chance.choice(servers)].add(workflow)
    for one in found:
        if not one and asked:
            one.add(chance.choice(asked))
    return found


def _placed(room: Room, server: int, models: set[int], chance: random.Random | None) -> bool:
    """Put a copy of each model into a server, the widest and largest first."""
    problem, load = room.problem, np.zeros(room.problem.cluster.size)
    weight = {m: problem.models[m].share * (chance.uniform(0.5, 1) if chance else 1.0) for m in sorted(models)}
    for model in sorted(weight, key=lambda m: (-problem.models[m].gang, -weight[m])):
        found = room.firsts(model, aligned=True)
        found = found[problem.servers[found] == server]
        if not len(found):
            return False
        best = best_first(room, model, found, load)
        room.put(best)
        load[best.first : best.first + problem.models[model].gang] += problem.work[model]
    return True
