"""Seconds before which no schedule ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from djinn_fx.solvers.scheduling.problem import Problem


@dataclass(frozen=True)
class Bounds:
    """What no makespan is below.

    Attributes:
        critical_path_s: the longest way through the tasks, each on the device that is the best for the whole way, with
            the transfers between those.
        area_s: all the work shared evenly, each task's as on its fastest device.
    """

    critical_path_s: float
    area_s: float

    @property
    def best_s(self) -> float:
        """The larger of the two."""
        return max(self.critical_path_s, self.area_s)


def bounds_of(problem: Problem) -> Bounds:
    """Both bounds."""
    return Bounds(_critical_path(problem), _area(problem))


def _critical_path(problem: Problem) -> float:
    devices = range(problem.devices)
    ends = [list(task.times_s) for task in problem.tasks]
    before: list[list[int]] = [[] for _ in problem.tasks]
    for source, user in problem.edges:
        before[user].append(source)
    for task in problem.line:
        for device in devices:
            ready = 0.0
            for source in before[task]:
                came = min(ends[source][one] + problem.transfer_s(source, one, device) for one in devices)
                ready = max(ready, came)
            ends[task][device] += ready
    return max((min(one) for one in ends), default=0.0)


def _area(problem: Problem) -> float:
    """Work of a task: seconds on its fastest device. A device does so much work a second at most, at its best task."""
    work = [min(task.times_s) for task in problem.tasks]
    speeds = [0.0] * problem.devices
    for one, task in zip(work, problem.tasks, strict=True):
        for device, time in enumerate(task.times_s):
            if one and time < math.inf:
                speeds[device] = max(speeds[device], one / time)
    return sum(work) / sum(speeds) if any(speeds) else 0.0
