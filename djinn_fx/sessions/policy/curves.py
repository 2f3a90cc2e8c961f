"""How long waits last, learnt from those that ended and from those that have not yet.

A curve is Kaplan and Meier's estimate on a fixed grid: of the waits that reached a stretch of ages, which share ended
in it? A wait that goes on, or that was broken off, counts for the stretches that it reached and is no end. A curve of
few waits leans on a broader one (of the tool over all tenants, of everything), whose shares count as some waits of its
own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

#: A curve leans on the broader one as if that had been so many waits in each stretch.
LEAN = 4.0
#: Where nothing is known at all: the share of waits that end in a stretch.
UNKNOWN = 0.12


def seconds_grid() -> tuple[float, ...]:
    """Ages in seconds: from an eighth of a second to three days, three stretches each time they double."""
    return tuple(0.125 * 2 ** (step / 3) for step in range(64))


def ratio_grid() -> tuple[float, ...]:
    """Ages as parts of an estimate: fine about 1, where a good estimate's waits end."""
    near = (0.5, 0.7, 0.85, 0.94, 0.98, 0.995, 1.005, 1.02, 1.06, 1.15, 1.3, 1.5)
    low = tuple(0.5 * 2 ** (-step / 3) for step in range(20, 0, -1))
    high = tuple(1.5 * 2 ** (step / 3) for step in range(1, 24))
    return low + near + high


class Curve:
    """Waits of one kind.

    Args:
        grid: the ages between stretches, ascending; the first stretch begins at 0, the last one never ends.
        broader: what it leans on.
        given: waits that it begins with, and then never learns another one: a belief for others to lean on.
    """

    def __init__(self, grid: Sequence[float], broader: Curve | None = None, given: Sequence[float] = ()) -> None:
        self.grid = grid
        self.broader = broader
        self.changes = 0
        self._ends = [0.0] * (len(grid) + 1)
        self._reached = [0.0] * (len(grid) + 1)
        self._built = -1
        self._survive: np.ndarray = np.ones(0)
        self._fixed = False
        for age in given:
            self.ended(age)
        self._fixed = bool(given)

    def stretch(self, age: float) -> int:
        """The number of the stretch that an age is in."""
        return bisect_right(self.grid, age)

    def ended(self, age: float) -> None:
        """A wait ended at that age."""
        if self._fixed:
            return
        place = self.stretch(age)
        self._ends[place] += 1
        self._reached[place] += 1
        self.changes += 1
        if self.broader is not None:
            self.broader.ended(age)

    def reached(self, age: float, before: int | None) -> int:
        """A wait that goes on has reached an age; ``before`` is what this returned for it last. -1 takes it back."""
        place = self.stretch(age) if age >= 0 else -1
        if place == before:
            return place
        curve: Curve | None = self
        while curve is not None and not curve._fixed:
            if before is not None and before >= 0:
                curve._reached[before] -= 1
            if place >= 0:
                curve._reached[place] += 1
            curve = curve.broader
        return place

    @property
    def count(self) -> float:
        """How many waits ended."""
        return sum(self._ends)

    def hazards(self) -> np.ndarray:
        """By stretch: the share of waits that reached it and end in it."""
        reached = np.cumsum(np.asarray(self._reached)[::-1])[::-1]
        leaned = self.broader.hazards() if self.broader is not None else np.full(len(reached), UNKNOWN)
        ends, reached = np.asarray(self._ends), np.maximum(reached, 0.0)
        shares: np.ndarray = np.minimum((ends + LEAN * leaned) / (reached + LEAN), 0.98)
        return shares

    def survival(self) -> np.ndarray:
        """The share of waits that outlast each age of the grid, 0 first; rebuilt as far as enough has changed."""
        total = self.changes
        if self._built < 0 or total > 1.05 * self._built + 2:
            self._survive = np.concatenate(([1.0], np.cumprod(1 - self.hazards())))
            self._built = total
        return self._survive

    def density(self, age: float) -> float:
        """The share of waits that end in an age's stretch, over the stretch's width in logarithms."""
        place, survive = self.stretch(age), self.survival()
        low = self.grid[place - 1] if place else self.grid[0] / 2
        high = self.grid[place] if place < len(self.grid) else 2 * self.grid[-1]
        return float((survive[place] - survive[place + 1]) / np.log(high / low))


class Table:
    """Of a curve, by the stretch that a wait has reached: how likely and how soon it ends within a horizon.

    Args:
        curve: of which.
        horizon: in the curve's own unit.
    """

    def __init__(self, curve: Curve, horizon: float) -> None:
        self.curve, self.horizon = curve, horizon
        self._built = -1
        self._chance: list[float] = []
        self._mean: list[float] = []
        self._early: list[float] = []
        self._late: list[float] = []

    def _build(self) -> None:
        curve, horizon = self.curve, self.horizon
        survive = curve.survival()[: len(curve.grid) + 1]
        ages = np.concatenate(([0.0], np.asarray(curve.grid)))
        # Area below the survival curve, straight between the grid's ages and flat behind the last one.
        area = np.concatenate(([0.0], np.cumsum(np.diff(ages) * (survive[1:] + survive[:-1]) / 2)))
        until = ages + horizon
        there = np.interp(until, ages, survive)
        beyond = np.maximum(until - ages[-1], 0.0) * survive[-1]
        within = np.interp(until, ages, area) + beyond - area
        left = np.maximum(survive, 1e-12)
        self._chance = np.clip(1 - there / left, 1e-6, 1.0).tolist()
        self._mean = (within / left).tolist()
        falling, rising = survive[::-1], ages[::-1]
        # Where too few waits were seen to end, nobody knows by when they will have.
        self._early = np.interp(0.9 * survive, falling, rising, left=np.inf).tolist()
        self._late = np.interp(0.3 * survive, falling, rising, left=np.inf).tolist()
        self._built = curve.changes

    def at(self, age: float) -> tuple[float, float, float, float]:
        """Of a wait of that age: the chance that it ends within the horizon, the mean time until it does or the horizon
        is over, and the ages by which a tenth and seven tenths of such waits have ended."""
        if self._built < 0 or self.curve.changes > 1.15 * self._built + 4:
            self._build()
        place = self.curve.stretch(age)
        return self._chance[place], self._mean[place], self._early[place], self._late[place]
