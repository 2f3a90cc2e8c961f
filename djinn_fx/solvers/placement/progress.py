"""Time, and the best placement so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from djinn_fx.solvers.placement.cost import figure_of
from djinn_fx.solvers.placement.problem import Goal, Problem, Solution


class Clock:
    """When to stop.

    Args:
        seconds: from now; None for never.
        steps: of searches by chance; None for as many as there is time for.
    """

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        self._begin = time.monotonic()
        self.seconds, self.steps = seconds, steps

    def late(self) -> bool:
        """Whether time is up."""
        return self.share() >= 1

    def share(self) -> float:
        """How much of the time is over."""
        return 0.0 if self.seconds is None else (time.monotonic() - self._begin) / max(self.seconds, 1e-9)

    def left(self) -> float | None:
        """Seconds that are left."""
        return None if self.seconds is None else max(0.0, self.seconds * (1 - self.share()))

    def part(self, share: float) -> Callable[[], bool]:
        """Says whether so much of the time is over."""
        return lambda: self.share() >= share


@dataclass
class Best:
    """The best placement so far of one problem, for a goal that is timed.

    Attributes:
        bound: no figure is below it; infinite where it is proved that there is no placement.
        solution: the best one.
        wanted: a figure that is good enough; one that is out of reach is of no use.
    """

    problem: Problem
    goal: Goal
    bound: float
    solution: Solution | None = None
    wanted: float = -math.inf

    @property
    def figure(self) -> float:
        """What the best comes to."""
        return self.solution.figure if self.solution else math.inf

    @property
    def done(self) -> bool:
        """Whether nothing can be better, or need be."""
        if self.bound == math.inf or (self.solution is not None and self.solution.optimal):
            return True
        return self.wanted > -math.inf and (self.figure <= self.wanted or self.bound > self.wanted)

    def offer(self, devices: Sequence[int] | None, found_by: str) -> Iterator[Solution]:
        """The solution that this is, if it is better."""
        if devices is None:
            return
        figure = figure_of(self.problem, self.goal, devices)
        if figure < self.figure * (1 - 1e-9):
            self.solution = Solution(tuple(devices), figure, min(self.bound, figure), found_by)
            yield self.solution

    def nothing_below(self, bound: float) -> Iterator[Solution]:
        """The best one with what is known now: that no figure is below this one."""
        if bound <= self.bound:
            return
        self.bound = bound
        if self.solution is not None and self.solution.bound < self.figure:
            self.solution = replace(self.solution, bound=min(bound, self.figure))
            yield self.solution

    def searched(self) -> Iterator[Solution]:
        """Everything was looked at: nothing is better than the best, and if there is none, there is no placement."""
        return self.nothing_below(self.figure)
