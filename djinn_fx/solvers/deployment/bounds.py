"""Times below which no plan can be: by the area of all work, by the longest way, and by each model's copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from djinn_fx.solvers.deployment.problem import Floats, Problem
from djinn_fx.solvers.deployment.simulate import heads, tails


@dataclass(frozen=True)
class Bounds:
    """Seconds below which no makespan can be.

    Attributes:
        area: work that is left from some moment on, spread over all devices.
        path: a request's arrival and its longest way.
        placement: one model a device: the best counts of copies, each model's work shared evenly. 0 where devices are
            shared.
    """

    area: float
    path: float
    placement: float = 0.0

    @property
    def makespan(self) -> float:
        """The largest of them."""
        return max(self.area, self.path, self.placement)


def bounds_of(problem: Problem) -> Bounds:
    """Of a problem, for any plan."""
    if not problem.traffic.size:
        return Bounds(0.0, 0.0)
    fastest = min(problem.cluster.slowness)
    times = problem.traffic.times * fastest
    head, tail = heads(problem), tails(problem)
    if fastest != 1.0:
        head = np.repeat(problem.traffic.arrival, np.diff(problem.traffic.first))
        tail = times
    gangs = np.array([one.gang for one in problem.models])[problem.model_of]
    speed = sum(1 / one for one in problem.cluster.slowness)
    area = _from_some_moment_on(head, problem.traffic.times * gangs / speed, tail - times)
    placement = placement_bound(problem)[0] if problem.exclusive else 0.0
    return Bounds(area, float((head + tail).max()), placement)


def _from_some_moment_on(head: Floats, work: Floats, after: Floats) -> float:
    """The largest, over moments, of the moment and the work that comes from then on, and the least that follows it."""
    order = np.argsort(head, kind="stable")[::-1]
    return float((head[order] + np.cumsum(work[order]) + np.minimum.accumulate(after[order])).max(initial=0.0))


class CopyBounds:
    """For each model, seconds below which no makespan can be with so many copies of it.

    Args:
        problem: whose devices are taken to be as fast as its fastest.
    """

    def __init__(self, problem: Problem) -> None:
        fastest = min(problem.cluster.slowness)
        head, tail = heads(problem), tails(problem)
        self._rows = []
        for model in range(len(problem.models)):
            mine = problem.model_of == model
            self._rows.append((head[mine], problem.traffic.times[mine] * fastest, (tail - problem.traffic.times)[mine]))
        self._known: dict[tuple[int, int], float] = {}

    def of(self, model: int, copies: int) -> float:
        """Of a model with so many copies."""
        if (model, copies) not in self._known:
            head, times, after = self._rows[model]
            self._known[model, copies] = _from_some_moment_on(head, times / copies, after)
        return self._known[model, copies]


def placement_bound(problem: Problem) -> tuple[float, tuple[int, ...]]:
    """With one model a device: seconds below which no makespan can be, and counts of copies for which that is so.

    Whoever binds gets a further copy as long as there are devices, which is best for the largest of functions that
    fall with their counts. Where gangs do not fill servers this is still a bound.
    """
    bounds, used = CopyBounds(problem), problem.used
    counts = [int(model in used) for model in range(len(problem.models))]
    left = problem.cluster.size - sum(problem.models[m].gang for m in used)
    while used:
        worst = max(used, key=lambda model: bounds.of(model, counts[model]))
        if left < problem.models[worst].gang or counts[worst] == problem.copies:
            return bounds.of(worst, counts[worst]), tuple(counts)
        if bounds.of(worst, counts[worst] + 1) >= bounds.of(worst, counts[worst]):
            return bounds.of(worst, counts[worst]), tuple(counts)
        counts[worst] += 1
        left -= problem.models[worst].gang
    return 0.0, tuple(counts)
