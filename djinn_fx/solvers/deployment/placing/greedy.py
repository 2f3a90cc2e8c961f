"""Copies placed one after the other: first one of each model, then more where work is, then where memory is left."""

from __future__ import annotations

import random

import numpy as np

from djinn_fx.solvers.deployment.bounds import CopyBounds
from djinn_fx.solvers.deployment.placing.loads import Loads, split
from djinn_fx.solvers.deployment.placing.packed import packed
from djinn_fx.solvers.deployment.placing.patterns import Patterns, patterns_of
from djinn_fx.solvers.deployment.placing.room import Room, best_first
from djinn_fx.solvers.deployment.problem import Floats, Ints, Problem, Replica

#: Orders of placements that are tried where the first finds no room.
TRIES = 40


def first_copies(problem: Problem, *, tight: bool = False, seed: int = 0) -> Room | None:
    """One copy of each model that requests ask for; None where that found no room, which proves nothing.

    The widest and largest models first; each goes where there is least work so far.

    Args:
        problem: what is deployed.
        tight: fill devices up one after the other instead.
        seed: of the order among models; 0: by size.
    """
    room, models, load = Room(problem), problem.models, np.zeros(problem.cluster.size)
    order = sorted(problem.used, key=lambda m: (-models[m].gang, -models[m].share, -problem.work[m]))
    if seed:
        chance = random.Random(seed)
        order.sort(key=lambda m: (-models[m].gang, -models[m].share * chance.uniform(0.5, 1.0)))
    for group in problem.groups:  # its members follow one another, the widest first
        order = _gathered(order, group)
    homes: dict[frozenset[int], set[int]] = {}
    for model in order:
        group = next((one for one in problem.groups if model in one), frozenset[int]())
        found = room.firsts(model, aligned=True)
        if group:
            homes.setdefault(group, _common(room, group))
            found = found[np.isin(problem.servers[found], list(homes[group]))]
        if not len(found):
            return None
        best = best_first(room, model, found, load, tight=tight)
        if group:
            homes[group] = {problem.cluster.server[best.first]}
        _place(room, best, load, 1)
    return room


def _place(room: Room, one: Replica, load: Floats, copies: int) -> None:
    """Put a copy, and its share of the work onto its devices."""
    room.put(one)
    here = slice(one.first, one.first + room.problem.models[one.model].gang)
    load[here] += room.problem.work[one.model] / copies * room.problem.slowness[here]


def first_room(problem: Problem) -> Room | None:
    """A copy of each model: by work, else as tightly as can be, else by trying every placement, within bounds."""
    room = first_copies(problem)
    tight = (first_copies(problem, tight=True, seed=seed) for seed in range(TRIES))
    room = room if room is not None else next((one for one in tight if one is not None), None)
    if room is None:
        fits, found = packed(problem)
        room = found if fits else None
    return room


def _common(room: Room, models: frozenset[int]) -> set[int]:
    """Servers that have room for each of some models, taken by itself."""
    server = room.problem.cluster.server
    each = [{server[one.first] for one in room.candidates(model)} for model in sorted(models)]
    return set.intersection(*each)


def _gathered(order: list[int], group: frozenset[int]) -> list[int]:
    place = next((n for n, model in enumerate(order) if model in group), len(order))
    inside = [model for model in order if model in group]
    outside = [model for model in order if model not in group]
    return outside[:place] + inside + outside[place:]


def grown(room: Room, *, most: int = 10**9) -> Room:
    """Further copies as long as they make the most loaded device work less, of models on that device."""
    problem = room.problem
    loads = split(problem, room.sorted)
    for _ in range(most):
        found = _relief(room, loads)
        if found is None:
            return room
        room.put(found)
        after = split(problem, room.sorted)
        if after.most > loads.most * (1 - 1e-6) and sum(x * x for x in after.device) >= sum(
            x * x for x in loads.device
        ):
            room.take(found)
            return room
        loads = after
    return room


def _relief(room: Room, loads: Loads) -> Replica | None:
    """A copy of a model of a most loaded device, where there is least work; None if there is no room for any."""
    load = np.array(loads.device)
    full = np.flatnonzero(load >= loads.most * (1 - 1e-9)).tolist()
    found: list[tuple[float, float, Replica]] = []
    for model in sorted(room.models_on(full) - grouped(room.problem)):
        firsts = room.firsts(model, aligned=True)
        if len(firsts):
            most = room.over(load, model, firsts)
            place = int(np.argmin(most))
            found.append((float(most[place]), -float(room.problem.work[model]), Replica(model, int(firsts[place]))))
    return min(found)[2] if found and min(found)[0] < loads.most else None


def filled(room: Room, *, seed: int = 0, servers: dict[int, set[int]] | None = None) -> Room:
    """Further copies wherever memory is left: of the model with most work for each copy first, where is least work.

    Args:
        room: with the copies so far.
        seed: of the order among models; 0: by work alone.
        servers: for each model, where it is wanted; None: everywhere.
    """
    problem, chance = room.problem, random.Random(seed)
    work = problem.work
    load = np.array(split(problem, room.sorted).device)
    waiting = sorted(set(problem.used) - grouped(problem))
    weight = {m: float(work[m]) * problem.models[m].gang ** 0.5 / room.copies[m] for m in waiting if room.copies[m]}
    while weight:
        model = max(weight, key=lambda m: weight[m] * (chance.uniform(0.5, 1) if seed else 1.0))
        found = room.firsts(model, aligned=True)
        if servers is not None:
            found = found[np.isin(problem.servers[found], list(servers[model]))]
        if not len(found):
            del weight[model]
            continue
        order = np.lexsort((found, room.over(load, model, found), room.near(model, found)))
        _place(room, Replica(model, int(found[order[0]])), load, room.copies[model] + 1)
        weight[model] = float(work[model]) * problem.models[model].gang ** 0.5 / room.copies[model]
    return room


def grouped(problem: Problem) -> set[int]:
    """Models that are in some group."""
    return set().union(*problem.groups)


def balanced(problem: Problem) -> Room | None:
    """With one model a device: as many copies of each as its work asks for. None where gangs do not find servers."""
    bounds, used, patterns = CopyBounds(problem), set(problem.used), patterns_of(problem)
    counts = dict.fromkeys(sorted(used), 1)
    placed = counted(problem, counts, patterns)
    if placed is None:
        return None
    while used:
        most = max(bounds.of(m, count) for m, count in counts.items())
        worst = max(used, key=lambda m: (_binds(bounds, m, counts[m], most), problem.work[m] / counts[m], -m))
        room = counted(problem, counts | {worst: counts[worst] + 1}, patterns)
        if room is None:
            used.discard(worst)
        else:
            counts[worst] += 1
            placed = room
    return placed


def _binds(bounds: CopyBounds, model: int, copies: int, most: float) -> bool:
    """Whether a model's copies are what keeps the makespan up, and a further one would help."""
    return bounds.of(model, copies) > most * (1 - 1e-4) and bounds.of(model, copies + 1) < bounds.of(model, copies) * (
        1 - 1e-4
    )


def counted(problem: Problem, counts: dict[int, int], patterns: Patterns | None = None) -> Room | None:
    """So many copies of each model, the widest first, models that work together in one server where it has room."""
    room, models = Room(problem), problem.models
    if sum(models[m].gang * count for m, count in counts.items()) > problem.cluster.size and problem.exclusive:
        return None
    patterns = patterns or patterns_of(problem)
    for model in sorted(counts, key=lambda m: (-models[m].gang, -counts[m], m)):
        for _ in range(counts[model]):
            found = room.firsts(model, aligned=True)
            if not len(found):
                return None
            room.put(_in_company(room, model, found, patterns))
    return room


def _in_company(room: Room, model: int, firsts: Ints, patterns: Patterns) -> Replica:
    """In a server with few copies of the model, with others that it works with, and with little room left."""
    servers = room.problem.servers
    count = servers[-1] + 1
    near = np.zeros(count)
    for (one, other), times in patterns.together.items():
        if model in (one, other) and one != other:
            there = np.bincount(servers, room.on[other if one == model else one], count) > 0
            near += times * there
    free = np.bincount(servers, room.count == 0, count)
    here = servers[firsts]
    copies = room.near(model, firsts) // room.problem.models[model].gang
    return Replica(model, int(firsts[np.lexsort((firsts, free[here], -near[here], copies))[0]]))
