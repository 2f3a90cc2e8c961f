"""Small problems to the end: a group after the other on each device, turning back where nothing better can follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from djinn_fx.solvers.placement.cost import latency_of
from djinn_fx.solvers.placement.groups import Groups
from djinn_fx.solvers.placement.problem import Problem

#: Groups up to which every placement may be looked at: beyond, minutes go by.
MOST_GROUPS = 16
#: What counts as better, as a share.
BETTER = 1 - 1e-9


@dataclass
class _Loads:
    """Loads of what is placed so far, which only grow."""

    groups: Groups
    devices: int

    def __post_init__(self) -> None:
        self.load = [0.0] * self.devices
        self.had = [[0] * self.devices for _ in self.groups.nets]
        self.nets: list[list[int]] = [[] for _ in self.groups.members]
        for place, net in enumerate(self.groups.nets):
            for group in net:
                self.nets[group].append(place)
        self.times = self.groups.times.tolist()
        self.costs = self.groups.costs.tolist()
        self.undo: list[list[float]] = []

    def put(self, group: int, device: int) -> None:
        """A group onto a device."""
        self.undo.append(list(self.load))
        self.load[device] += self.times[group][device]
        for net in self.nets[group]:
            had, costs = self.had[net], self.costs[net]
            used = [at for at, count in enumerate(had) if count]
            if used and used != [device] and not had[device]:
                self.load[device] += costs[device]
                if len(used) == 1:  # the net was one device's alone until now
                    self.load[used[0]] += costs[used[0]]
            had[device] += 1

    def take(self, group: int, device: int) -> None:
        """It back again: the last one that was put."""
        for net in self.nets[group]:
            self.had[net][device] -= 1
        self.load = self.undo.pop()

    def bound(self) -> float:
        """No placement that goes on from here has a smaller largest load."""
        return max(self.load, default=0.0)


@dataclass
class _Calls:
    """The latency of what is placed so far, the others as early and as fast as can be."""

    groups: Groups
    problem: Problem

    def __post_init__(self) -> None:
        self.devices = [-1] * len(self.problem.operators)
        self.least = latency_of(self.problem, self.devices)

    def put(self, group: int, device: int) -> None:
        """A group onto a device."""
        for place in self.groups.members[group]:
            self.devices[place] = device

    def take(self, group: int, device: int) -> None:
        """It back again."""
        for place in self.groups.members[group]:
            self.devices[place] = -1

    def bound(self) -> float:
        """No placement that goes on from here takes less."""
        found = latency_of(self.problem, self.devices)
        # Who waits for each other now may be on one device in the end, with those between them that are nowhere yet.
        return self.least if math.isinf(found) and -1 in self.devices else found


def every_placement(
    problem: Problem, groups: Groups, below: float, *, calls: bool, late: Callable[[], bool]
) -> tuple[int, ...] | None:
    """The best placement of groups whose largest load, or latency, is below a figure; None where there is none, or
    where none was found before time was up.

    Args:
        problem: what is placed.
        groups: its groups.
        below: only what is better counts.
        calls: whether latency is meant.
        late: whether time is up.

    Returns:
        The device of each group.
    """
    state = _Calls(groups, problem) if calls else _Loads(groups, len(problem.devices))
    search = _Search(problem, groups, state, below, late)
    search.go()
    return search.best


class _Search:
    def __init__(
        self, problem: Problem, groups: Groups, state: _Loads | _Calls, below: float, late: Callable[[], bool]
    ) -> None:
        self.best: tuple[int, ...] | None = None
        self._state, self._late, self._below, self._groups = state, late, below, groups
        self._left = [device.memory_bytes for device in problem.devices]
        self._memory = groups.memory.tolist()
        self._may = [np.flatnonzero(np.isfinite(row)).tolist() for row in groups.times]
        self._alike = _first_alike(problem, groups)
        fastest = groups.times.min(axis=1, initial=np.inf)
        self._order: Sequence[int] = sorted(range(len(fastest)), key=lambda group: (-fastest[group], group))
        if isinstance(state, _Calls):
            self._order = sorted(range(len(fastest)), key=lambda group: groups.members[group][0])
        self._at: dict[int, int] = {}

    def go(self, depth: int = 0) -> None:
        """Look at everything, or at what is left of it."""
        if depth == len(self._order):
            self._below = self._state.bound()
            self.best = tuple(self._at[group] for group in range(len(self._order)))
            return
        group, tried = self._order[depth], set[int]()
        used = set(self._at.values())
        for device in self._may[group]:
            like = self._alike[device]
            if (device not in used and like in tried) or self._memory[group] > self._left[device]:
                continue  # an empty device is as good as another empty one like it
            if device not in used:
                tried.add(like)
            self._at[group] = device
            self._left[device] -= self._memory[group]
            self._state.put(group, device)
            if self._state.bound() < self._below * BETTER and not self._late():
                self.go(depth + 1)
            self._state.take(group, device)
            self._left[device] += self._memory[group]
            del self._at[group]


def _first_alike(problem: Problem, groups: Groups) -> list[int]:
    """For each device the first that is like it in everything, also in who may be there."""
    keys = [(device, groups.times[:, at].tobytes()) for at, device in enumerate(problem.devices)]
    return [keys.index(key) for key in keys]
