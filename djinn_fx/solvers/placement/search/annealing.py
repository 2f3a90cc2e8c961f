"""Placements without an order: many of them at once, each changed by one group at a time, at heats of their own.

Parallel tempering: a hot copy takes nearly any change, a cold one hardly a worse one, and copies at neighbouring heats
change places when the hotter one is better. So one setting serves a few large groups as well as hundreds of small ones.
All copies make a step together, so that a step is a few operations on arrays. What is made small is a smooth form of
the largest load, as most moves leave the largest load itself as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from djinn_fx.solvers.placement.chains.ideals import Flags
from djinn_fx.solvers.placement.groups import Floats, Groups
from djinn_fx.solvers.placement.search.limits import Limits

#: Heats, and placements at each of them.
HEATS, ALIKE = 16, 16
COPIES = HEATS * ALIKE
#: The highest and the lowest heat, as shares of the largest load.
HOT, COLD = 3e-2, 1e-4
#: How often a group follows another that it shares a net with, rather than going anywhere.
FOLLOWING = 0.7
#: Groups at most that one may follow.
MATES = 64
#: Steps between changes of places.
ROUND = 16

Ints = npt.NDArray[np.int64]


@dataclass
class _Nets:
    """The nets of groups, one group's after the other's; who has none has one that costs nothing.

    Attributes:
        first: where a group's nets begin in ``nets``.
        count: how many it has.
        nets: places of nets.
        sizes: groups of each net.
        costs: seconds for sharing it, a column a device.
        mates: groups that share a net with a group, repeated to rows of equal length; itself where it is alone.
    """

    first: Ints
    count: Ints
    nets: Ints
    sizes: npt.NDArray[np.int32]
    costs: Floats
    mates: Ints


def _nets_of(groups: Groups, devices: int) -> _Nets:
    mine: list[list[int]] = [[] for _ in groups.members]
    for place, net in enumerate(groups.nets):
        for group in net:
            mine[group].append(place)
    near = [sorted({other for place in own for other in groups.nets[place]} - {at}) for at, own in enumerate(mine)]
    most = min(max(map(len, near), default=1), MATES) or 1
    mates = np.array([((row or [at]) * most)[:most] for at, row in enumerate(near)])
    rows = [own or [len(groups.nets)] for own in mine]
    count = np.array([len(own) for own in rows])
    nets = np.array([place for own in rows for place in own])
    sizes = np.array([*map(len, groups.nets), 1 << 30], np.int32)
    return _Nets(np.cumsum(count) - count, count, nets, sizes, np.vstack([groups.costs, np.zeros(devices)]), mates)


class Annealing:
    """Copies of a placement on their way.

    Args:
        groups: what is placed.
        rooms: bytes of each device.
        start: the device of each group.
        seed: of chance.
        rank: where values may only go forward: devices by how far forward they are.
    """

    def __init__(
        self,
        groups: Groups,
        rooms: Sequence[float],
        start: Sequence[int],
        seed: int = 0,
        rank: Sequence[int] | None = None,
    ) -> None:
        self._limits = None if rank is None else Limits(groups, rank)
        self._groups = groups
        self._rooms = np.array(rooms, float)
        self._chance = np.random.default_rng(seed)
        self._nets = _nets_of(groups, len(rooms))
        self._at = np.repeat(np.array([start]), COPIES, axis=0)
        self._had = self._counted(start)
        self._room = np.repeat(self._filled(start)[None], COPIES, axis=0)
        self._load = np.repeat(self._loads(self._at[0], self._had[0])[None], COPIES, axis=0)
        self.best = tuple(start)
        self.load = float(self._load[0].max())
        self._unit = max(self.load, 1e-300)
        self._copies = np.arange(COPIES)
        self._ladder = self._copies.reshape(HEATS, ALIKE).copy()
        self._wide = self._had[0].size

    def _counted(self, start: Sequence[int]) -> npt.NDArray[np.int32]:
        """How many groups of each net are on each device, in each copy."""
        one = np.zeros((len(self._groups.nets) + 1, len(self._rooms)), np.int32)
        for place, net in enumerate(self._groups.nets):
            for group in net:
                one[place, start[group]] += 1
        return np.repeat(one[None], COPIES, axis=0)

    def _filled(self, start: Sequence[int]) -> Floats:
        return np.bincount(start, self._groups.memory, len(self._rooms)).astype(float)

    def _loads(self, at: Sequence[int], had: npt.NDArray[np.int32]) -> Floats:
        shared = (had > 0) & (had < self._nets.sizes[:, None])
        times = self._groups.times[np.arange(len(at)), at]
        return np.asarray(np.bincount(at, times, len(self._rooms)) + (shared * self._nets.costs).sum(0), float)

    def run(self, steps: int, late: Callable[[], bool]) -> None:
        """Go on for so many steps, a multiple of ``ROUND``, or until time is up."""
        for _ in range(0, steps, ROUND):
            if late():
                return
            self._round()

    def coldest(self, count: int) -> list[tuple[int, ...]]:
        """So many different placements, those with the smallest largest load."""
        found: dict[tuple[int, ...], None] = {self.best: None}
        for copy in self._load.max(axis=1).argsort()[: 4 * count]:
            found[tuple(self._at[copy].tolist())] = None
        return list(found)[:count]

    def _round(self) -> None:
        """Some steps, then copies change places."""
        count, shape = len(self._groups.members), (ROUND, COPIES)
        heat = np.empty(COPIES)
        heat[self._ladder] = (np.geomspace(HOT, COLD, HEATS) * self.load)[:, None]
        group = self._chance.integers(0, count, shape)
        mate = self._nets.mates[group, self._chance.integers(0, self._nets.mates.shape[1], shape)]
        anywhere = self._chance.integers(0, len(self._rooms), shape)
        follows = self._chance.random(shape) < FOLLOWING
        worse = self._chance.exponential(1.0, shape) * heat  # a change is taken if it is worse by less than this
        smooth = _power(self._load / self._unit)
        for step in range(ROUND):
            self._step(group[step], mate[step], anywhere[step], follows[step], worse[step], smooth)
        self._change_places(smooth.sum(1) ** (1 / POWER) * self._unit)

    def _change_places(self, value: Floats) -> None:
        """Copies at neighbouring heats, by the rule of Metropolis for both at once."""
        self._ladder = self._chance.permuted(self._ladder, axis=1)
        cold = 1 / (np.geomspace(HOT, COLD, HEATS) * self.load)
        for first in (0, 1):
            hotter, colder = self._ladder[first : HEATS - 1 : 2].copy(), self._ladder[first + 1 : HEATS : 2].copy()
            colds = (cold[first + 1 : HEATS : 2] - cold[first : HEATS - 1 : 2])[:, None]
            gain = (value[colder] - value[hotter]) * colds
            change = self._chance.random(gain.shape) < np.exp(np.minimum(gain, 0.0))
            self._ladder[first : HEATS - 1 : 2] = np.where(change, colder, hotter)
            self._ladder[first + 1 : HEATS : 2] = np.where(change, hotter, colder)

    def _step(
        self,
        group: Ints,
        mate: Ints,
        anywhere: Ints,
        follows: Flags,
        worse: Floats,
        smooth: Floats,
    ) -> None:
        groups, nets, copies, devices = self._groups, self._nets, self._copies, len(self._rooms)
        old = self._at[copies, group]
        new = np.where(follows, self._at[copies, mate], anywhere)
        may = (new != old) & (self._room[copies, new] + groups.memory[group] <= self._rooms[new])
        row = np.flatnonzero(may & np.isfinite(groups.times[group, new]))
        if self._limits is not None and row.size:
            row = row[self._limits.keep(self._at, row, group[row], new[row])]
        if not row.size:
            return
        group, old, new, worse = group[row], old[row], new[row], worse[row]
        # One number for a copy, a net and a device, for each net of each copy's group: this is where the time goes.
        count = nets.count.take(group)
        of = np.repeat(np.arange(row.size), count)
        place = np.arange(of.size) + (nets.first.take(group) - np.cumsum(count) + count).take(of)
        mine = nets.nets.take(place)
        size = nets.sizes.take(mine)
        mine *= devices
        cost_old, cost_new = mine + old.take(of), mine + new.take(of)
        base = (row * self._wide).take(of)
        at_old, at_new = cost_old + base, cost_new + base
        here, there = self._had.take(at_old), self._had.take(at_new)
        less = nets.costs.take(cost_old) * ((here == size).astype(float) - (here == 1))
        more = nets.costs.take(cost_new) * ((there == 0).astype(float) - (there == size - 1))
        old_load = self._load[row, old] - groups.times[group, old] + np.bincount(of, less, row.size)
        new_load = self._load[row, new] + groups.times[group, new] + np.bincount(of, more, row.size)
        old_smooth, new_smooth = _power(old_load / self._unit), _power(new_load / self._unit)
        was = smooth[row].sum(1)
        becomes = np.maximum(was - smooth[row, old] - smooth[row, new] + old_smooth + new_smooth, 1e-300)
        good = self._unit * (becomes ** (1 / POWER) - was ** (1 / POWER)) < worse
        taken = np.flatnonzero(good)
        if not taken.size:
            return
        row, group, old, new, changed = row[taken], group[taken], old[taken], new[taken], good.take(of)
        self._at[row, group] = new
        had = self._had.ravel()
        had[at_old[changed]] -= 1
        had[at_new[changed]] += 1
        self._load[row, old], self._load[row, new] = old_load[taken], new_load[taken]
        smooth[row, old], smooth[row, new] = old_smooth[taken], new_smooth[taken]
        self._room[row, old] -= groups.memory[group]
        self._room[row, new] += groups.memory[group]
        largest = self._load[row].max(axis=1)
        best = int(largest.argmin())
        if largest[best] < self.load * (1 - 1e-9):
            self._keep(int(row[best]))

    def _keep(self, copy: int) -> None:
        exact = float(self._loads(self._at[copy], self._had[copy]).max())
        if exact < self.load * (1 - 1e-9):
            self.load, self.best = exact, tuple(self._at[copy].tolist())


#: The power of loads that are summed; the higher, the nearer to the largest alone.
POWER = 12


def _power(loads: Floats) -> Floats:
    """To the power of ``POWER``, by multiplying."""
    third = loads * loads * loads
    sixth = third * third
    return sixth * sixth
