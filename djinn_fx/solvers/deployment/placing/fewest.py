"""The smallest number of devices that suffices: what a refusal names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from djinn_fx.solvers.deployment.placing.greedy import first_room
from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Cluster, Problem

#: Steps of the search that proves that a number does not suffice.
STEPS = 20_000


@dataclass(frozen=True)
class Fewest:
    """A number of devices.

    Attributes:
        devices: on which a placement was found.
        proven: whether one device fewer cannot do.
    """

    devices: int
    proven: bool


def fewest(problem: Problem, cluster: Callable[[int], Cluster], most: int) -> Fewest | None:
    """The smallest number of devices on which every model has a place.

    Args:
        problem: its own cluster is left aside.
        cluster: of so many devices.
        most: numbers that are tried.

    Returns:
        None if no number up to ``most`` was found to do.
    """
    proven = True
    for devices in range(_at_least(problem), most + 1):
        asked = replace(problem, cluster=cluster(devices))
        if first_room(asked) is not None:
            return Fewest(devices, proven)
        fits = placed_somehow(asked)
        if fits:
            return Fewest(devices, proven)
        proven = proven and fits is False
    return None


def _at_least(problem: Problem) -> int:
    """A number that is not above the smallest one."""
    used = [problem.models[m] for m in problem.used]
    widest = max((one.gang for one in used), default=1)
    if problem.exclusive:
        return max(widest, sum(one.gang for one in used))
    memory = max(problem.cluster.memory, default=1) or 1
    return max(1, widest, -(-sum(one.share * one.gang for one in used) // memory))


def placed_somehow(problem: Problem, steps: int = STEPS) -> bool | None:
    """Whether there is a placement, by trying all that differ; None: not known after so many steps."""
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
            room.take(one)
            if found:
                return True
            unknown = unknown or found is None
        return None if unknown else False

    return place(0)


def _together(room: Room, group: frozenset[int]) -> bool:
    return all(not (here := room.hosted(s) & group) or here == group for s in range(len(room.problem.cluster.servers)))
