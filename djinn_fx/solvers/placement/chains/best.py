"""The best chain among given ideals: which stages a pipeline has, and which device runs each.

Dynamic programming over pairs of ideals, one inside the other, and over how many devices of each sort are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from djinn_fx.solvers.placement.chains.pool import ROUNDING, Alike, Ints, Used, in_time, states
from djinn_fx.solvers.placement.groups import Floats

#: Ideals of one side of a block of pairs: a block of numbers stays in the processor's cache.
BLOCK = 512


class Stages(Protocol):
    """Ideals by weight, and the load of the stage between any two of them.

    Attributes:
        ideals: the first is empty, the last has everything.
        classes: devices by what they are like.
        weight: of each ideal.
    """

    ideals: list[int]
    classes: Sequence[Alike]
    weight: Floats

    def loads(self, which: int, smaller: Ints, larger: Ints, below: float) -> Floats:
        """Seconds of stages on a device of a class, a row a smaller ideal; infinite where a stage cannot be."""


@dataclass(frozen=True)
class Chain:
    """Stages of a pipeline.

    Attributes:
        load: seconds of the slowest, as found; up to rounding.
        ideals: what is done after each stage.
        devices: who runs each stage.
    """

    load: float
    ideals: tuple[int, ...]
    devices: tuple[int, ...]

    def of_groups(self, count: int) -> list[int]:
        """The device of each group."""
        found, done = [0] * count, 0
        for ideal, device in zip(self.ideals, self.devices, strict=True):
            for group in range(count):
                if (ideal & ~done) >> group & 1:
                    found[group] = device
            done = ideal
        return found


def best_chain(pool: Stages, below: float, late: Callable[[], bool]) -> Chain | None:
    """The chain of the pool's ideals whose slowest stage is the fastest, if that is below a figure.

    None where there is no such chain, or where time was up before this was known (``late``).
    """
    most = tuple(len(one.devices) for one in pool.classes)
    value: dict[Used, Floats] = {(0,) * len(most): np.where(np.arange(len(pool.ideals)) == 0, 0.0, np.inf)}
    came: dict[tuple[Used, int], tuple[Ints, Floats]] = {}
    if len(pool.ideals) == 1:
        return Chain(0.0, (), ())
    for used in states(most):
        best = np.full(len(pool.ideals), np.inf)
        span = in_time(pool.weight, pool.classes, used, below)
        targets = np.arange(span.start, span.stop)
        for which, count in enumerate(used):
            before = (*used[:which], count - 1, *used[which + 1 :])
            if count and targets.size and before in value:
                froms, reached = _step(pool, which, value[before], targets, below, late)
                came[used, which] = (froms, reached)
                best = np.minimum(best, reached)
        if np.isfinite(best).any():
            value[used] = best
        if late():
            return None
    return _traced(pool, value, came)


def _step(
    pool: Stages, which: int, before: Floats, targets: Ints, below: float, late: Callable[[], bool]
) -> tuple[Ints, Floats]:
    """The best way to each target by one more stage: from which ideal, and the slowest stage so far."""
    froms, reached = np.zeros(len(before), np.int64), np.full(len(before), np.inf)
    sources = np.flatnonzero(before < below)
    reach = below * pool.classes[which].speed * (1 + ROUNDING) if below < np.inf else np.inf
    for at in range(0, len(targets), BLOCK):
        some = targets[at : at + BLOCK]
        lightest = pool.weight[some[0]] - reach
        near = sources[(pool.weight[sources] >= lightest - ROUNDING) & (sources < some[-1])]
        for start in range(0, len(near), BLOCK):
            if late():
                return froms, reached
            part = near[start : start + BLOCK]
            slowest = np.maximum(pool.loads(which, part, some, below), before[part][:, None])
            row = slowest.argmin(axis=0)
            found = slowest[row, np.arange(len(some))]
            better = found < np.minimum(reached[some], below)
            reached[some[better]] = found[better]
            froms[some[better]] = part[row[better]]
    return froms, reached


def _traced(pool: Stages, value: dict[Used, Floats], came: dict[tuple[Used, int], tuple[Ints, Floats]]) -> Chain | None:
    used = min(value, key=lambda one: (value[one][-1], sum(one)))
    load, at = float(value[used][-1]), len(pool.ideals) - 1
    if not np.isfinite(load) or at == 0:
        return None
    ideals, devices = [], []
    while at:
        which = next(
            which for which in range(len(used)) if (used, which) in came and came[used, which][1][at] == value[used][at]
        )
        ideals.append(pool.ideals[at])
        devices.append(pool.classes[which].devices[used[which] - 1])
        at = int(came[used, which][0][at])
        used = (*used[:which], used[which] - 1, *used[which + 1 :])
    return Chain(load, tuple(reversed(ideals)), tuple(reversed(devices)))
