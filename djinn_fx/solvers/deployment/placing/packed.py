"""One copy of each model, by trying every placement that differs: where memory is so tight that greedy finds none."""

from __future__ import annotations

from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Problem, Replica

#: Copies that are tried at most.
STEPS = 20_000


def packed(problem: Problem, steps: int = STEPS) -> tuple[bool | None, Room]:
    """Whether there is a placement of one copy each, by trying all that differ, and that placement.

    The largest first, then the widest first, each where it leaves least: either may find at once what the other does
    not find for long.

    Args:
        problem: what is deployed.
        steps: copies to try; None is the answer where they do not suffice to know.
    """
    models = problem.models
    orders = (
        sorted(problem.used, key=lambda m: (-models[m].gang * models[m].share, m)),
        sorted(problem.used, key=lambda m: (-models[m].gang, -models[m].share)),
    )
    room = Room(problem)
    for order in orders:
        found, room = _tried(problem, order, steps // len(orders))
        if found is not None:
            return found, room
    return None, room


def _tried(problem: Problem, order: list[int], steps: int) -> tuple[bool | None, Room]:
    """The same, in one order of models."""
    models = problem.models
    room, left = Room(problem), [steps]

    def least_left(one: Replica) -> tuple[int, int]:
        return int(room.free[one.first : one.first + models[one.model].gang].sum()), one.first

    def place(number: int) -> bool | None:
        if number == len(order):
            return all(_together(room, group) for group in problem.groups)
        left[0] -= 1
        if left[0] < 0:
            return None
        unknown = False
        tried = set()
        for one in sorted(room.candidates(order[number]), key=least_left):
            server = problem.cluster.servers[problem.cluster.server[one.first]]
            # Servers that look the same from the inside are the same, unless somebody may not be on all of them.
            alike = (
                one.first - server.start,
                tuple(room.free[server.start : server.stop].tolist()),
                tuple(room.count[server.start : server.stop].tolist()),
            )
            if alike in tried and not problem.groups and all(m.allowed is None for m in models):
                continue
            tried.add(alike)
            room.put(one)
            found = place(number + 1)
            if found:
                return True
            room.take(one)
            unknown = unknown or found is None
            if left[0] < 0:
                return None
        return None if unknown else False

    return place(0), room


def _together(room: Room, group: frozenset[int]) -> bool:
    return all(not (here := room.hosted(s) & group) or here == group for s in range(len(room.problem.cluster.servers)))
