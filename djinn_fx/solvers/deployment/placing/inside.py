"""Placements in which every request can stay in one server: each server has all models of some of the workflows."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from djinn_fx.solvers.deployment.placing.greedy import filled
from djinn_fx.solvers.deployment.placing.room import Room, best_first
from djinn_fx.solvers.deployment.problem import Problem


def inside_servers(problem: Problem, *, seed: int = 0, workflows: Sequence[set[int]] | None = None) -> Room | None:
    """A copy of every model of a server's workflows, and then more of them; None where that finds no room.

    Args:
        problem: what is deployed.
        seed: 0: every server takes all workflows; another one: some of them, by chance.
        workflows: those that each server takes; None: by the seed.
    """
    chance = random.Random(seed)
    if workflows is not None:
        taken: Sequence[set[int]] = workflows
    else:
        taken = _workflows(problem, chance) if seed else [_asked(problem) for _ in problem.cluster.servers]
    room = Room(problem)
    wanted: dict[int, set[int]] = {model: set() for model in range(len(problem.models))}
    for server, mine in enumerate(taken):
        models = {m for w in mine for m in problem.workflows[w].models}
        if not _placed(room, server, models, chance if seed else None):
            return None
        for model in models:
            wanted[model].add(server)
    for group in problem.groups:
        if any(0 < len(group & room.hosted(server)) < len(group) for server in range(len(taken))):
            return None
    return filled(room, seed=seed, servers=wanted)


def other_workflows(room: Room, chance: random.Random) -> Room | None:
    """Another placement of the kind, in which one server takes one workflow more or less than in a given one."""
    problem = room.problem
    asked = sorted(_asked(problem))
    hosted = [room.hosted(server) for server in range(len(problem.cluster.servers))]
    taken = [{w for w in asked if here.issuperset(problem.workflows[w].models)} for here in hosted]
    server, workflow = chance.randrange(len(taken)), chance.choice(asked)
    taken[server] ^= {workflow}
    if not all(taken) or set().union(*taken) != set(asked):
        return None
    return inside_servers(problem, seed=chance.randrange(1, 10**6), workflows=taken)


def _asked(problem: Problem) -> set[int]:
    return set(problem.traffic.workflow.tolist())


def _workflows(problem: Problem, chance: random.Random) -> list[set[int]]:
    """For each server the workflows that it takes: each at least in one server, no server without any."""
    asked, servers = sorted(_asked(problem)), range(len(problem.cluster.servers))
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
