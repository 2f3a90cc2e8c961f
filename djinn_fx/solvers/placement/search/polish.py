"""One or two groups moved so that the largest load falls, until no such move is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from djinn_fx.solvers.placement.groups import Floats, Groups
from djinn_fx.solvers.placement.search.limits import Limits


class Moves:
    """A placement, and what each move of one group would make of the loads.

    Args:
        groups: what is placed.
        rooms: bytes of each device.
        start: the device of each group.
        rank: where values may only go forward: devices by how far forward they are.
    """

    def __init__(
        self, groups: Groups, rooms: Sequence[float], start: Sequence[int], rank: Sequence[int] | None = None
    ) -> None:
        self._limits = None if rank is None else Limits(groups, rank)
        self._groups = groups
        self._rooms = np.array(rooms, float)
        self.at = np.array(start, np.int64)
        self._every = np.arange(len(start))
        self._sizes = np.array([len(net) for net in groups.nets], np.int64)[:, None]
        touches = [(place, group) for place, net in enumerate(groups.nets) for group in net]
        by = sorted(touches, key=lambda one: one[1])
        self._net = np.array([place for place, _ in by], np.int64)
        self._group = np.array([group for _, group in by], np.int64)
        self._mine = [self._net[self._group == group] for group in range(len(start))]
        self._had = np.zeros((len(groups.nets), len(rooms)), np.int64)
        np.add.at(self._had, (self._net, self.at[self._group]), 1)

    def loads(self) -> Floats:
        """Seconds of each device."""
        groups, devices = self._groups, len(self._rooms)
        shared = (self._had > 0) & (self._had < self._sizes)
        compute = np.bincount(self.at, groups.times[self._every, self.at], devices)
        return np.asarray(compute + (shared * groups.costs).sum(0))

    def move(self, group: int, device: int) -> None:
        """Put a group on a device."""
        nets = self._mine[group]
        self._had[nets, self.at[group]] -= 1
        self._had[nets, device] += 1
        self.at[group] = device

    def barred(self) -> npt.NDArray[np.bool_]:
        """Where groups must not go, a row a group, a column a device; memory is not looked at."""
        found: npt.NDArray[np.bool_] = ~np.isfinite(self._groups.times)
        return found if self._limits is None else found | self._limits.barred(self.at)

    def best_single(self, loads: Floats) -> tuple[float, int, int]:
        """The move of one group after which the largest load is the smallest: that load, the group, its device."""
        groups, devices = self._groups, len(self._rooms)
        more_of = groups.costs * ((self._had == 0).astype(float) - (self._had == self._sizes - 1))
        less_of = groups.costs * ((self._had == self._sizes).astype(float) - (self._had == 1))
        more, less = groups.times.copy(), -groups.times[self._every, self.at]
        np.add.at(more, self._group, more_of[self._net])
        less += np.bincount(self._group, less_of[self._net, self.at[self._group]], len(self.at))
        filled = np.bincount(self.at, groups.memory, devices)
        after = np.maximum(_others(loads)[self.at], loads[None, :] + more)
        after = np.maximum(after, (loads[self.at] + less)[:, None])
        after[filled[None, :] + groups.memory[:, None] > self._rooms[None, :]] = np.inf
        after[self._every, self.at] = np.inf
        after[self.barred()] = np.inf
        at = int(after.argmin())
        return float(after.flat[at]), *divmod(at, devices)


def _others(loads: Floats) -> Floats:
    """The largest load of all devices but two: a row and a column for these."""
    count = len(loads)
    left = np.broadcast_to(loads, (count, count, count)).copy()
    every = np.arange(count)
    left[every, :, every] = -np.inf
    left[:, every, every] = -np.inf
    return np.asarray(left.max(axis=2))


def polished(
    groups: Groups,
    rooms: Sequence[float],
    start: Sequence[int],
    late: Callable[[], bool],
    rank: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The device of each group, so that no move of one or two groups makes the largest load smaller.

    The first of two is one of the busiest device's; where it goes, memory must suffice at once.
    """
    here = Moves(groups, rooms, start, rank)
    while not late():
        loads = here.loads()
        if not (_moved_one(here, loads) or _moved_two(here, groups, rooms, loads, late)):
            break
    return tuple(here.at.tolist())


def _moved_one(here: Moves, loads: Floats) -> bool:
    found, group, device = here.best_single(loads)
    if found < loads.max() * (1 - 1e-9):
        here.move(group, device)
        return True
    return False


def _moved_two(here: Moves, groups: Groups, rooms: Sequence[float], loads: Floats, late: Callable[[], bool]) -> bool:
    largest, busiest = loads.max(), int(loads.argmax())
    filled = np.bincount(here.at, groups.memory, len(rooms))
    barred = here.barred()
    for group in np.flatnonzero(here.at == busiest).tolist():
        for device in np.flatnonzero(~barred[group]).tolist():
            if device == busiest or filled[device] + groups.memory[group] > rooms[device] or late():
                continue
            here.move(group, device)
            if _moved_one_below(here, largest):
                return True
            here.move(group, busiest)
    return False


def _moved_one_below(here: Moves, largest: float) -> bool:
    found, group, device = here.best_single(here.loads())
    if found < largest * (1 - 1e-9):
        here.move(group, device)
        return True
    return False
