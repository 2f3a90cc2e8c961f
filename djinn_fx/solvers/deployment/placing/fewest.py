"""The smallest number of devices that suffices: what a refusal names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from djinn_fx.solvers.deployment.placing.greedy import first_room
from djinn_fx.solvers.deployment.placing.packed import packed
from djinn_fx.solvers.deployment.problem import Cluster, Problem


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
        proven = proven and packed(asked)[0] is False
    return None


def _at_least(problem: Problem) -> int:
    """A number that is not above the smallest one."""
    used = [problem.models[m] for m in problem.used]
    widest = max((one.gang for one in used), default=1)
    if problem.exclusive:
        return max(widest, sum(one.gang for one in used))
    memory = max(problem.cluster.memory, default=1) or 1
    return max(1, widest, -(-sum(one.share * one.gang for one in used) // memory))
