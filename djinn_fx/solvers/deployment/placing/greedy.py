"""Copies placed one after the other: first one of each model, then more where work is, then where memory is left."""

from __future__ import annotations

import random
from collections.abc import Sequence

from djinn_fx.solvers.deployment.bounds import CopyBounds
from djinn_fx.solvers.deployment.placing.loads import split
from djinn_fx.solvers.deployment.placing.patterns import Patterns, patterns_of
from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Problem, Replica

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
    room, models, load = Room(problem), problem.models, [0.0] * problem.cluster.size
    order = sorted(problem.used, key=lambda m: (-models[m].gang, -models[m].share, -problem.work[m]))
    if seed:
        chance = random.Random(seed)
        order.sort(key=lambda m: (-models[m].gang, -models[m].share * chance.uniform(0.5, 1.0)))
    for group in problem.groups:  # its members follow one another, the widest first
        order = _gathered(order, group)
    homes: dict[frozenset[int], set[int]] = {}
    for model in order:
        group = next((one for one in problem.groups if model in one), frozenset[int]())
        found = room.aligned(model)
        if group:
            homes.setdefault(group, _common(room, group))
            found = [one for one in found if problem.cluster.server[one.first] in homes[group]]
        if not found:
            return None
        best = min(found, key=lambda one: cost(room, one, load, tight))
        if group:
            homes[group] = {problem.cluster.server[best.first]}
        room.put(best)
        for device in room.devices(best):
            load[device] += float(problem.work[model]) * problem.cluster.slowness[device]
    return room


def first_room(problem: Problem) -> Room | None:
    """A copy of each model, by work or, where that finds no room, by how tightly they can be packed."""
    room = first_copies(problem)
    tight = (first_copies(problem, tight=True, seed=seed) for seed in range(TRIES))
    return room if room is not None else next((one for one in tight if one is not None), None)


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


def cost(room: Room, one: Replica, load: list[float], tight: bool) -> tuple[float, float, int]:
    """What is smaller for a better place: work that is there, or memory that is left."""
    devices = room.devices(one)
    left = float(sum(room.free[d] for d in devices))
    slow = max(room.problem.cluster.slowness[d] for d in devices)
    more = float(room.problem.work[one.model]) * slow
    return (left if tight else max(load[d] for d in devices) + more, -left, one.first)


def grown(room: Room, *, most: int = 10**9) -> Room:
    """Further copies as long as they make the most loaded device work less, of models on that device."""
    problem = room.problem
    loads = split(problem, room.sorted)
    for _ in range(most):
        found = _relief(room, loads.device, loads.most)
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


def _relief(room: Room, load: Sequence[float], most: float) -> Replica | None:
    """A copy of a model of a most loaded device, where there is least work; None if there is no room for any."""
    full = [d for d, seconds in enumerate(load) if seconds >= most * (1 - 1e-9)]
    models = {m for d in full for m in room.hosts[d]} - _grouped(room.problem)
    found = [
        (max(load[d] for d in room.devices(one)), -float(room.problem.work[one.model]), one)
        for model in sorted(models)
        for one in room.aligned(model)
    ]
    return min(found)[2] if found and min(found)[0] < most else None


def filled(room: Room, *, seed: int = 0, servers: dict[int, set[int]] | None = None) -> Room:
    """Further copies wherever memory is left: of the model with most work for each copy first, where is least work.

    Args:
        room: with the copies so far.
        seed: of the order among models; 0: by work alone.
        servers: for each model, where it is wanted; None: everywhere.
    """
    problem, chance = room.problem, random.Random(seed)
    work = problem.work
    load = list(split(problem, room.sorted).device)
    open_models = set(problem.used) - _grouped(problem)
    while open_models:
        weight = {m: work[m] * problem.models[m].gang ** 0.5 / room.copies[m] for m in open_models}
        model = max(sorted(open_models), key=lambda m: weight[m] * (chance.uniform(0.5, 1) if seed else 1.0))
        found = room.aligned(model)
        if servers is not None:
            found = [one for one in found if problem.cluster.server[one.first] in servers[model]]
        if not found:
            open_models.discard(model)
            continue
        best = min(found, key=lambda one: (_same_server(room, one), max(load[d] for d in room.devices(one)), one.first))
        room.put(best)
        for device in room.devices(best):
            load[device] += float(work[model]) / room.copies[model]
    return room


def _same_server(room: Room, one: Replica) -> int:
    """Copies of the model in that server."""
    cluster = room.problem.cluster
    return sum(one.model in room.hosts[d] for d in cluster.servers[cluster.server[one.first]])


def _grouped(problem: Problem) -> set[int]:
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
            found = room.aligned(model)
            if not found:
                return None
            room.put(min(found, key=lambda one: (*_company(room, one, patterns), one.first)))
    return room


def _company(room: Room, one: Replica, patterns: Patterns) -> tuple[int, int, int]:
    """Copies of the model in that server, work in common with what is there (more goes first), and room left there."""
    cluster = room.problem.cluster
    server = cluster.server[one.first]
    near = sum(
        patterns.together.get((min(other, one.model), max(other, one.model)), 0)
        for other in room.hosted(server) - {one.model}
    )
    free = sum(1 for d in cluster.servers[server] if not room.hosts[d])
    return (_same_server(room, one) // room.problem.models[one.model].gang, -near, free)
