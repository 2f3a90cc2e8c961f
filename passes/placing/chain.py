"""Units of work in a row and who runs which: the problem, its answer, and a solver that shares the row out by cuts.

Each device gets a stretch of the row, so values cross once from a device to the next. Where pins ask for more than one
stretch a device, the row is followed from unit to unit instead. Any other solver that takes the problem can stand in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: More devices than this at a time cannot be tried in every order.
MOST_DEVICES = 4


@dataclass(frozen=True, kw_only=True)
class Held:
    """Something that stays in memory, such as a weight: bytes, and the units that use it, ascending."""

    nbytes: int
    users: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The problem.

    Attributes:
        seconds: of each unit on each device.
        held: what stays in memory.
        live: bytes of passing values while each unit runs.
        rooms: bytes of each device.
        crossing: bytes of values made before each unit that it or a later one reads.
        moving_s: seconds for bytes from one device to another.
        fixed: device of each unit that must be there; None for the others.
        together: pairs of units, of which all from the first to the last are on one device.
        throughput: the slowest device is to be fast, else all of them one after the other.
    """

    seconds: tuple[tuple[float, ...], ...]
    held: tuple[Held, ...]
    live: tuple[int, ...]
    rooms: tuple[float, ...]
    crossing: tuple[int, ...]
    moving_s: Callable[[int, int, int], float]
    fixed: tuple[int | None, ...]
    together: tuple[tuple[int, int], ...] = ()
    throughput: bool = False


@dataclass(frozen=True, kw_only=True)
class Shares:
    """An answer.

    Attributes:
        devices: of each unit.
        figure_s: seconds of one call, or for throughput of the slowest device or link, transfers included.
    """

    devices: tuple[int, ...]
    figure_s: float

    @property
    def used(self) -> tuple[int, ...]:
        """The devices that have something to do, in the order in which they first do."""
        return tuple(dict.fromkeys(self.devices))


#: Gives the best answer that uses some of these devices (by place), all of them; None if there is none.
Solver = Callable[[Row, Sequence[int]], Shares | None]


def by_cuts(row: Row, devices: Sequence[int], orders: Iterable[Sequence[int]] | None = None) -> Shares | None:
    """The best way to cut the row into one stretch for each of these devices, in whatever order of them; exact.

    Every order is tried, where they differ, or those that are given.
    """
    count = len(row.seconds)
    if not 0 < len(devices) <= count:
        return None
    memory = _memory(row)
    loads = {device: _loads(row, device, memory) for device in devices}
    barred = {place for first, last in row.together for place in range(first + 1, last + 1)}
    best: Shares | None = None
    for order in _orders(row, devices) if orders is None else orders:
        found = _in_order(row, order, loads, barred)
        if found is not None and (best is None or found.figure_s < best.figure_s * (1 - 1e-9)):
            best = found
    return best


def alike(row: Row, devices: Sequence[int]) -> bool:
    """Whether devices can take each other's place."""
    pairs = list(itertools.permutations(devices, 2))
    return (
        all(len({seconds[device] for device in devices}) == 1 for seconds in row.seconds)
        and len({row.rooms[device] for device in devices}) == 1
        and not any(fixed in devices for fixed in row.fixed)
        and all(len({row.moving_s(*pair, nbytes) for pair in pairs}) <= 1 for nbytes in (0, 10**6))
    )


def _orders(row: Row, devices: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The orders of devices that can make a difference."""
    yield from (tuple(devices),) if alike(row, devices) else itertools.permutations(devices)


def figure_of(row: Row, devices: Sequence[int]) -> float:
    """Of an answer; infinite if it breaks one of the row's rules or gives a device two stretches."""
    runs = [list(run) for _, run in itertools.groupby(range(len(devices)), key=devices.__getitem__)]
    owners = [devices[run[0]] for run in runs]
    torn = any(len(set(devices[first : last + 1])) > 1 for first, last in row.together)
    if torn or len(set(owners)) < len(owners):
        return math.inf
    memory = _memory(row)
    loads = [_loads(row, owner, memory)[run[0], run[-1] + 1] for owner, run in zip(owners, runs, strict=True)]
    moves = [
        row.moving_s(source, target, row.crossing[run[0]])
        for source, target, run in zip(owners, owners[1:], runs[1:], strict=False)
    ]
    return float(max(*loads, *moves, 0.0) if row.throughput else sum(loads) + sum(moves))


def shares_of(row: Row, devices: Sequence[int]) -> Shares:
    """An answer of which nothing is asked: a device may have several stretches."""
    seconds = [spent[device] for spent, device in zip(row.seconds, devices, strict=True)]
    moves = [
        row.moving_s(devices[unit - 1], devices[unit], row.crossing[unit])
        for unit in range(1, len(devices))
        if devices[unit - 1] != devices[unit]
    ]
    loads = [sum(s for s, other in zip(seconds, devices, strict=True) if other == device) for device in set(devices)]
    figure_s = max([*loads, *moves], default=0.0) if row.throughput else sum(seconds) + sum(moves)
    return Shares(devices=tuple(devices), figure_s=figure_s)


def _memory(row: Row) -> Floats:
    """Bytes of each stretch, a row a beginning, a column an end."""
    count = len(row.seconds)
    change: Floats = np.zeros((count + 1, count + 1))  # from one beginning to the next, and from one end to the next
    for one in row.held:
        before = -1
        for user in one.users:  # counted where a stretch meets it for the first time
            change[before + 1, user + 1] += one.nbytes
            change[user + 1, user + 1] -= one.nbytes
            before = user
    total: Floats = change.cumsum(axis=0).cumsum(axis=1)[:count]
    live = np.array(row.live, float)
    for start in range(count):
        total[start, start + 1 :] += np.maximum.accumulate(live[start:])
    return total


def _loads(row: Row, device: int, memory: Floats) -> Floats:
    """Seconds of each stretch on a device; infinite where it does not fit or does not belong there."""
    count = len(row.seconds)
    sums = np.concatenate([[0.0], np.cumsum([one[device] for one in row.seconds])])
    foreign = np.concatenate([[0], np.cumsum([fixed not in (None, device) for fixed in row.fixed])])
    loads: Floats = sums[None, :] - sums[:count, None]
    loads[memory > row.rooms[device]] = np.inf
    loads[foreign[None, :] > foreign[:count, None]] = np.inf
    loads[np.arange(count + 1)[None, :] <= np.arange(count)[:, None]] = np.inf
    return loads


def _in_order(row: Row, order: Sequence[int], loads: dict[int, Floats], barred: set[int]) -> Shares | None:
    """The best cuts for devices in this order. ``best[i]``: what the first devices take for the units before ``i``."""
    count = len(row.seconds)
    best: Floats = loads[order[0]][0].copy()
    cuts: list[npt.NDArray[np.int64]] = []
    closed = np.array([place in barred for place in range(count)])
    for source, target in itertools.pairwise(order):
        moving = np.array([row.moving_s(source, target, nbytes) for nbytes in row.crossing])
        moving[closed] = np.inf
        before = best[:count, None]
        if row.throughput:
            through = np.maximum(np.maximum(before, moving[:, None]), loads[target])
        else:
            through = before + moving[:, None] + loads[target]
        cuts.append(through.argmin(axis=0))
        best = through.min(axis=0)
    if not np.isfinite(best[count]):
        return None
    devices, end = [0] * count, count
    for device, cut in zip(reversed(order[1:]), reversed(cuts), strict=True):
        start = int(cut[end])
        devices[start:end] = [device] * (end - start)
        end = start
    devices[:end] = [order[0]] * end
    return Shares(devices=tuple(devices), figure_s=float(best[count]))


def along(row: Row) -> Shares | None:
    """The cheapest way along the row where a device may have several stretches, memory left aside.

    For pins that ask for it: every unit that is not fixed goes where moving and computing cost least.
    """
    count, devices = len(row.seconds), range(len(row.rooms))
    barred = {place for first, last in row.together for place in range(first + 1, last + 1)}
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()) for _ in devices]
    for unit in range(count):
        fixed = row.fixed[unit]
        ways: list[tuple[float, tuple[int, ...]]] = []
        for target in devices:
            if fixed not in (None, target):
                ways.append((math.inf, ()))
                continue
            reached = [
                (spent + (row.moving_s(source, target, row.crossing[unit]) if unit else 0.0), path)
                for source, (spent, path) in enumerate(best)
                if source == target or not unit or unit not in barred
            ]
            spent, path = min(reached)
            ways.append((spent + row.seconds[unit][target], (*path, target)))
        best = ways
    spent, path = min(best)
    return Shares(devices=path, figure_s=spent) if math.isfinite(spent) else None


def smallest_room(row: Row, devices: int) -> float:
    """The least memory that would do if so many devices had the same, a stretch each; pins and times left aside."""
    memory = _memory(row)
    count = len(row.seconds)
    best = memory[0].copy()
    for _ in range(devices - 1):
        best = np.minimum(best, np.maximum(best[:count, None], memory).min(axis=0, initial=np.inf, where=_later(count)))
    return float(best[count])


def _later(count: int) -> npt.NDArray[np.bool_]:
    return np.arange(count + 1)[None, :] > np.arange(count)[:, None]
