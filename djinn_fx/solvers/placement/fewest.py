"""The fewest devices with which a deadline is met."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from djinn_fx.solvers.placement.problem import Device, Goal, Operator, Problem, Solution
from djinn_fx.solvers.placement.progress import Best, Clock

Search = Callable[[Best, Clock, int], Iterator[Solution]]

#: Choices of devices that are looked at; with many sorts of them there may be more.
MOST_CHOICES = 2_000


@dataclass
class _Choice:
    """Some of the devices: their places, and the best that is known with these alone."""

    places: tuple[int, ...]
    best: Best
    used: int

    def whole(self, devices: tuple[int, ...]) -> tuple[int, ...]:
        """A placement on these as one on all of the problem's devices."""
        return tuple(self.places[one] for one in devices)


def fewest(problem: Problem, goal: Goal, search: Search, clock: Clock, seed: int) -> tuple[Solution | None, float]:
    """The first choice of devices, fewer before more, with which a search meets the deadline.

    The search is asked for each choice until it meets the deadline, has proved that this cannot be, or has had its part
    of the time.

    Returns:
        The solution, and the smallest figure that was met on the way if there is none.
    """
    nearest, sure = math.inf, True
    fewest_not_excluded = 0
    choices = list(itertools.islice(_choices(problem, goal), MOST_CHOICES))
    for at, choice in enumerate(choices):
        left = clock.left()
        part = Clock(None if left is None else left / min(len(choices) - at, 4), clock.steps)
        for found in search(choice.best, part, seed):
            nearest = min(nearest, found.figure)
            if found.figure <= goal.deadline_s:
                devices = choice.whole(found.devices)
                used = float(len({one for one in devices if not problem.devices[one].host}))
                bound = used if sure else min(used, float(fewest_not_excluded))
                return Solution(devices, used, bound, found.found_by), nearest
        if sure and choice.best.bound <= goal.deadline_s:
            sure, fewest_not_excluded = False, choice.used
    return None, nearest


def _choices(problem: Problem, goal: Goal) -> Iterator[_Choice]:
    """Which devices may be used, fewer first; all hosts in any case, and whatever an operator is fixed to."""
    fixed = {one.fixed for one in problem.operators if one.fixed is not None}
    there = [at for at, device in enumerate(problem.devices) if device.host or at in fixed]
    sorts: dict[Device, list[int]] = {}
    for at, device in enumerate(problem.devices):
        if at not in there:
            sorts.setdefault(device, []).append(at)
    counts = itertools.product(*(range(len(places) + 1) for places in sorts.values()))
    base = sum(not problem.devices[at].host for at in there)
    for some in sorted(counts, key=sum):
        more = [at for places, count in zip(sorts.values(), some, strict=True) for at in places[:count]]
        places = tuple(sorted(there + more))
        if places:
            part = _part(problem, places)
            yield _Choice(places, Best(part, goal.timed, 0.0, wanted=goal.deadline_s), base + sum(some))


def _part(problem: Problem, places: tuple[int, ...]) -> Problem:
    new = {old: at for at, old in enumerate(places)}

    def moved(one: Operator) -> Operator:
        return one if one.fixed is None else replace(one, fixed=new[one.fixed])

    devices = tuple(problem.devices[at] for at in places)
    return Problem(tuple(map(moved, problem.operators)), problem.edges, devices)
