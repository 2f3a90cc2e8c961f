"""Placements made better by taking some copies out and putting them where there is less work, again and again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from djinn_fx.solvers.deployment.placing.greedy import grouped, grown
from djinn_fx.solvers.deployment.placing.loads import Loads, split
from djinn_fx.solvers.deployment.placing.room import Room, best_first
from djinn_fx.solvers.deployment.problem import Floats, Problem, Replica

#: Looks at a device that a search may take, for each of its steps: a large problem takes fewer steps.
LOOKS = 60_000


def polished(room: Room, *, steps: int | None = None, seed: int = 0) -> Room:
    """A placement whose most loaded device works no longer than before.

    Copies on a most loaded device, and a few others, are taken out and put back in another order, each where it makes
    its busiest device least busy; what is not worse is kept.

    Args:
        room: a placement; groups stay as they are.
        steps: how often; None: by the size of the problem.
        seed: of what is chosen.
    """
    problem, chance = room.problem, random.Random(seed)
    fixed = grouped(problem)
    if steps is None:
        steps = min(400, LOOKS // max(1, problem.cluster.size * 4))
    best, loads = room, split(problem, room.sorted)
    key = _key(loads)
    floor = _floor(problem)
    for step in range(steps):
        if loads.most <= floor * (1 + 1e-6):
            break
        other = _changed(best, loads, chance, fixed)
        if other is None:
            continue
        if problem.copies != 1 and step % 4 == 0:
            other = grown(other, most=2)
        found = split(problem, other.sorted)
        if _key(found) <= key:
            best, loads, key = other, found, _key(found)
    return best


def _floor(problem: Problem) -> float:
    """Seconds that the most loaded device works at least."""
    fastest = min(problem.cluster.slowness)
    area = sum(float(problem.work[m]) * problem.models[m].gang for m in problem.used)
    floor = area / sum(1 / one for one in problem.cluster.slowness)
    copies = problem.copies or problem.cluster.size
    return max([floor, *(float(problem.work[m]) * fastest / copies for m in problem.used)])


def _key(loads: Loads) -> tuple[float, float]:
    """What is smaller for a better placement: the most loaded device, then how uneven all are."""
    return (round(loads.most, 9), sum(one * one for one in loads.device))


def _changed(room: Room, loads: Loads, chance: random.Random, fixed: set[int]) -> Room | None:
    """Another placement near a given one; None where some model found no place."""
    problem = room.problem
    full = {d for d, seconds in enumerate(loads.device) if seconds >= loads.most * (1 - 1e-9)}
    free = [one for one in room.sorted if one.model not in fixed]
    pressing = [one for one in free if full & set(room.devices(one))]
    if not pressing:
        return None
    gone = {chance.choice(pressing)}
    gone |= set(chance.sample(free, min(len(free), chance.choice((0, 1, 1, 2, 2, 3, 4)))))
    other, load = room.copy(), _without(problem, room.sorted, loads, gone)
    for one in gone:
        other.take(one)
    order = sorted(gone, key=lambda one: (-problem.models[one.model].gang, -problem.work[one.model]))
    if chance.random() < 0.5:
        chance.shuffle(order)
    for one in order:
        found = other.firsts(one.model, aligned=True)
        if len(found):
            pick = best_first(other, one.model, found, load)
            other.put(pick)
            here = slice(pick.first, pick.first + problem.models[one.model].gang)
            load[here] += problem.work[one.model] / max(1, room.copies[one.model]) * problem.slowness[here]
        elif not other.copies[one.model]:
            return None
    return other


def _without(problem: Problem, replicas: Sequence[Replica], loads: Loads, gone: set[Replica]) -> Floats:
    """Seconds of each device if some copies' work went with them."""
    load = np.array(loads.device)
    for one, seconds in zip(replicas, loads.share, strict=True):
        if one in gone:
            here = slice(one.first, one.first + problem.models[one.model].gang)
            load[here] -= seconds * problem.slowness[here]
    return load
