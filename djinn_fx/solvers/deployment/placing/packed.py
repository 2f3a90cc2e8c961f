"""One copy of each model, by trying every placement that differs: where memory is so tight that greedy finds none."""

from __future__ import annotations

from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Problem

#: Copies that are tried at most.
STEPS = 20_000


def packed(problem: Problem, steps: int = STEPS) -> tuple[bool | None, Room]:
    """Whether there is a placement of one copy each, by trying all that differ, and that placement.

    Args:
        problem: what is deployed.
        steps: copies to try; None is the answer where they do not suffice to know.
    """
    models = problem.models
    order = sorted(problem.used, key=lambda m: (-models[m].gang, -models[m].share))
    room, left = Room(problem), [steps]

    def place(number: int) -> bool | None:
        if number == len(order):
            return all(_together(room, group) for group in problem.groups)
        left[0] -= 1
        if left[0] < 0:
            return None
        unknown = False
        tried = set()
        for one in room.candidates(order[number]):
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
        return None if unknown else False

    return place(0), room


def _together(room: Room, group: frozenset[int]) -> bool:
    return all(not (here := room.hosted(s) & group) or here == group for s in range(len(room.problem.cluster.servers)))
