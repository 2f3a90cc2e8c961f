"""Ideals in numbers, and the load of the stage between any two of them.

What a stage shares with the rest is a product of two matrices: a net is not shared by a stage that holds all of it
(none in the smaller ideal, all in the larger) or none of it (as many of it in the larger as in the smaller), and each
of these is a sum of products of what is known of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from djinn_fx.solvers.placement.chains.ideals import Flags, rows_of
from djinn_fx.solvers.placement.groups import Floats, Groups

#: A chain counts as better where it is by so much: what rounding may make of sums.
ROUNDING = 1e-9

Ints = npt.NDArray[np.int64]
#: How many devices of each sort are used.
Used = tuple[int, ...]


@dataclass(frozen=True)
class Alike:
    """Devices that are as good as each other.

    Attributes:
        devices: their places.
        times: seconds of each group.
        costs: seconds for sharing each net.
        room: bytes of each.
        speed: how much weight it does a second at most; see :class:`Weights`.
    """

    devices: tuple[int, ...]
    times: Floats
    costs: Floats
    room: float
    speed: float


def alike(groups: Groups, rooms: Sequence[float]) -> tuple[list[Alike], Floats]:
    """Devices by what they are like, and a weight for each group: seconds on a device as fast as the fastest for it.

    A weight bounds: no device does more of it in a second than its ``speed``.
    """
    found: dict[tuple[bytes, bytes, float], list[int]] = {}
    for at, room in enumerate(rooms):
        key = (groups.times[:, at].tobytes(), groups.costs[:, at].tobytes(), room)
        found.setdefault(key, []).append(at)
    weight = _weights(groups.times)
    classes = []
    for (_, _, room), devices in found.items():
        times = groups.times[:, devices[0]]
        may = np.isfinite(times) & (weight > 0)
        with np.errstate(divide="ignore"):
            speed = float((weight[may] / times[may]).max(initial=0.0))
        classes.append(Alike(tuple(devices), times, groups.costs[:, devices[0]], room, speed))
    return classes, weight


def _weights(times: Floats) -> Floats:
    """Seconds on the fastest kind; of a group that this kind cannot run, as if its device were as slow as usual."""
    finite = np.where(np.isfinite(times), times, np.nan)
    fastest = np.nanmin(finite, axis=1) if len(times) else np.zeros(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = fastest[:, None] / finite
    usual = [float(np.median(column[np.isfinite(column)])) if np.isfinite(column).any() else 1.0 for column in ratios.T]
    slow = np.array([one if one > 0 else 1.0 for one in usual])
    own = np.nanmin(finite * slow[None, :], axis=1) if len(times) else np.zeros(0)
    return np.where(np.isfinite(own), np.minimum(own, fastest), 0.0)


class Pool:
    """Ideals in numbers, by weight.

    Args:
        groups: what is placed.
        classes: devices by what they are like.
        weight: of the groups.
        ideals: each once, the smallest and the largest among them.
        below: stages from so many seconds on are of no use, and neither are ideals that need one.
    """

    def __init__(
        self, groups: Groups, classes: Sequence[Alike], weight: Floats, ideals: Sequence[int], below: float = np.inf
    ) -> None:
        rows = rows_of(ideals, len(groups.members))
        weights: Floats = rows.astype(float) @ weight
        by = np.lexsort((rows.sum(1), weights))
        by = by[_useful(weights[by], classes, below)]
        self.ideals = [ideals[at] for at in by]
        self.classes = classes
        self.weight: Floats = weights[by]
        rows = rows[by]
        numbers = rows.astype(float)
        self._memory = numbers @ groups.memory
        self._words = _words(rows)
        self._seconds = [numbers @ np.where(np.isfinite(one.times), one.times, 0.0) for one in classes]
        self._barred = [numbers @ ~np.isfinite(one.times) for one in classes]
        self._first, self._last, self._net = _features(groups, rows)

    def loads(self, which: int, smaller: Ints, larger: Ints, below: float) -> Floats:
        """Seconds of the stages between ideals on a device of a class, a row a smaller ideal.

        Infinite where the smaller is not inside the larger, where memory does not suffice, or from ``below`` on.
        """
        kind = self.classes[which]
        stage: Floats = self._seconds[which][larger][None, :] - self._seconds[which][smaller][:, None]
        may: Flags = stage < below
        may &= self._memory[larger][None, :] - self._memory[smaller][:, None] <= kind.room
        may &= self._barred[which][larger][None, :] <= self._barred[which][smaller][:, None]
        for word in self._words:
            may &= (word[smaller][:, None] & ~word[larger][None, :]) == 0
        rows = np.flatnonzero(may.any(axis=1))
        if rows.size and kind.costs.any():
            price = kind.costs[self._net]
            shared = kind.costs.sum() - (self._first[smaller[rows]] * price) @ self._last[larger].T.astype(float)
            stage[rows] += shared
        stage[~may] = np.inf
        return stage


def _words(rows: Flags) -> list[npt.NDArray[np.uint64]]:
    packed = np.packbits(rows, axis=1)
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return list(np.ascontiguousarray(packed).view(np.uint64).T)


def _features(groups: Groups, rows: Flags) -> tuple[Flags, Flags, Ints]:
    """What of the smaller ideal meets what of the larger one, a column each, and whose net a column is of."""
    first, last, nets = [], [], []
    for place, net in enumerate(groups.nets):
        had = rows[:, net].sum(1)
        pairs = [(had == 0, had == len(net))]  # the stage has all of it
        pairs += [(same, same) for some in range(len(net) + 1) if (same := had == some).any()]  # or none
        for one, other in pairs:
            first.append(one)
            last.append(other)
            nets.append(place)
    sides = [np.array(side, bool).reshape(len(nets), len(rows)).T.copy() for side in (first, last)]
    return sides[0], sides[1], np.array(nets, np.int64)


def states(most: Sequence[int]) -> Iterator[Used]:
    """How many devices of each class may be used, none left out; each after those that it is reached from."""
    found = np.ndindex(*(count + 1 for count in most))
    return (one for one in sorted(found, key=sum) if sum(one))


def in_time(weights: Floats, classes: Sequence[Alike], used: Used, below: float) -> slice:
    """Of rising weights, those that the devices used can have done in time, and of which the others can do the rest."""
    if not np.isfinite(below):
        return slice(0, len(weights))
    total = float(weights[-1])
    had = sum(count * one.speed for count, one in zip(used, classes, strict=True))
    left = sum((len(one.devices) - count) * one.speed for count, one in zip(used, classes, strict=True))
    slack = ROUNDING * max(total, 1.0)
    low, high = np.searchsorted(weights, (total - below * left - slack, below * had + slack))
    return slice(int(low), int(high))


def _useful(weights: Floats, classes: Sequence[Alike], below: float) -> Ints:
    """Places of rising weights that are in time for some number of devices; the first and the last in any case."""
    if not np.isfinite(below):
        return np.arange(len(weights))
    may = np.zeros(len(weights), bool)
    may[[0, -1]] = True
    for used in states([len(one.devices) for one in classes]):
        may[in_time(weights, classes, used, below)] = True
    return np.flatnonzero(may)
