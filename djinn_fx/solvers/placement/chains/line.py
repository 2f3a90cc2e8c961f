"""A line of groups in numbers: the load of the stage between any two places of it.

All of them at once, in the form of a table: what a net costs is the same in whole rectangles of it, so that the corners
of these are noted and sums over rows and columns do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from djinn_fx.solvers.placement.chains.ideals import Flags, prefixes
from djinn_fx.solvers.placement.chains.pool import Alike, Ints
from djinn_fx.solvers.placement.groups import Floats, Groups


class Line:
    """The ideals of one line, with the interface of :class:`~djinn_fx.solvers.placement.chains.pool.Pool`.

    Args:
        groups: what is placed.
        classes: devices by what they are like.
        weight: of the groups.
        line: every group once, none before those that come before it.
    """

    def __init__(self, groups: Groups, classes: Sequence[Alike], weight: Floats, line: Sequence[int]) -> None:
        self.ideals = prefixes(line)
        self.classes = classes
        at = np.array(line, np.int64)
        self.weight: Floats = _sums(weight[at])
        self._memory = _sums(groups.memory[at])
        self._seconds = [_sums(np.where(np.isfinite(one.times), one.times, 0.0)[at]) for one in classes]
        self._barred = [_sums(~np.isfinite(one.times)[at]) for one in classes]
        place = np.empty(len(line), np.int64)
        place[at] = np.arange(len(line))
        nets = [np.sort(place[list(net)]) for net in groups.nets]
        self._shared = [_shared(nets, one.costs, len(line)) for one in classes]

    def loads(self, which: int, smaller: Ints, larger: Ints, below: float) -> Floats:
        """Seconds of the stages between ideals, as the pool's."""
        kind = self.classes[which]
        stage: Floats = self._seconds[which][larger][None, :] - self._seconds[which][smaller][:, None]
        may: Flags = smaller[:, None] < larger[None, :]
        may &= self._memory[larger][None, :] - self._memory[smaller][:, None] <= kind.room
        may &= self._barred[which][larger][None, :] <= self._barred[which][smaller][:, None]
        shared = self._shared[which]
        if shared is not None:
            stage += shared[np.ix_(smaller, larger)]
        stage[~may] = np.inf
        return stage


def _sums(values: Floats | Flags) -> Floats:
    """Sums of the first of them, beginning with none."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=float)])


def _shared(nets: Sequence[Ints], costs: Floats, count: int) -> Floats | None:
    """Seconds for what a stage shares, a row a beginning, a column an end; None where nothing costs anything."""
    if not costs.any():
        return None
    corners = np.zeros((count + 2, count + 2))
    corners[0, 0] = costs.sum()
    for places, cost in zip(nets, costs, strict=True):
        # A stage that begins behind one place of the net and ends before the next has nothing of it.
        begin, end = np.append(0, places + 1), np.append(places, count) + 1
        corners[begin, begin] -= cost
        corners[end, end] -= cost
        corners[begin, end] += cost
        corners[end, begin] += cost
        first, last = int(places[0]) + 1, int(places[-1]) + 1  # one that begins before all and ends behind has all
        corners[0, last] -= cost
        corners[first, last] += cost
    return corners.cumsum(axis=0).cumsum(axis=1)[: count + 1, : count + 1]
