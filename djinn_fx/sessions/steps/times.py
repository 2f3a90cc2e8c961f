"""How long a step takes, learnt from the steps so far."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

import numpy as np

#: Shapes that were seen as often as this are predicted by themselves.
_SEEN = 3
_REFIT_EVERY = 16
#: A machine that gets slower or faster by other work does so for all shapes: what the last steps agree on is believed.
_LATELY, _ODD = 7, 2


@dataclass(frozen=True)
class Shape:
    """What a step's time depends on.

    Attributes:
        batch: rows.
        new: tokens of each.
        past: tokens that each sees, padding counted.
    """

    batch: int
    new: int
    past: int

    @property
    def terms(self) -> tuple[float, float, float, float]:
        """A call, products with weights, attention, and rows that are gathered."""
        tokens = self.batch * self.new
        return 1.0, float(tokens), float(tokens * (self.past + self.new)), float(self.batch * self.past)


@dataclass
class StepTimes:
    """A median for each shape that was seen, and for the others a law with four coefficients, none below zero.

    Both lag behind a machine that has become slower. So they are multiplied by the least change that all but the two
    oddest of the last seven steps have seen, if those are on one side.

    Attributes:
        recent: shape and seconds of the last steps.
    """

    recent: deque[tuple[Shape, float]] = field(default_factory=lambda: deque(maxlen=512))
    _by_shape: dict[Shape, deque[float]] = field(default_factory=dict)
    _law: tuple[float, ...] | None = None
    _since: int = 0
    _lately: deque[float] = field(default_factory=lambda: deque(maxlen=_LATELY))

    def add(self, shape: Shape, seconds: float) -> None:
        """A step was carried out."""
        usual = self._usual(shape)
        if usual:
            self._lately.append(seconds / usual)
        self.recent.append((shape, seconds))
        if len(self._by_shape) > 4096:
            self._by_shape.clear()
        self._by_shape.setdefault(shape, deque(maxlen=7)).append(seconds)
        self._since += 1
        if self._since >= min(_REFIT_EVERY, 1 + len(self.recent) // 4):
            self._fit()

    def predict(self, shape: Shape) -> float | None:
        """Seconds that the next step takes if it has this shape; None before the first step."""
        usual = self._usual(shape)
        return None if usual is None else usual * self.pace

    @property
    def pace(self) -> float:
        """How much slower than usual steps are of late; 1 where they do not agree."""
        ordered = sorted(self._lately)
        if len(ordered) <= 2 * _ODD:
            return 1.0
        least, most = ordered[_ODD], ordered[-1 - _ODD]
        return least if least > 1 else most if most < 1 else 1.0

    def _usual(self, shape: Shape) -> float | None:
        seen = self._by_shape.get(shape)
        if seen is not None and len(seen) >= _SEEN:
            return statistics.median(seen)
        return self.by_law(shape)

    def by_law(self, shape: Shape) -> float | None:
        """The same by the law alone."""
        if self._law is None:
            return None
        return sum(rate * term for rate, term in zip(self._law, shape.terms, strict=True))

    def compute_s(self, first: int, last: int, chunk: int) -> float:
        """Seconds to compute tokens ``[first, last)`` of a context alone, a chunk at a time."""
        count = last - first
        if count <= 0 or self._law is None:
            return 0.0
        steps = -(-count // chunk)
        size = min(chunk, count)
        # The past grows by the same in each step, and the law is linear in it: the middle one stands for all.
        middle = Shape(1, size, first + max(0, count - size) // 2)
        return steps * (self.by_law(middle) or 0.0)

    def _fit(self) -> None:
        """Least squares of relative errors; a coefficient that would be negative is left out."""
        self._since = 0
        # The first call of a shape may hold a compile: the least of each shape is what it takes.
        samples = [(shape, statistics.median(times)) for shape, times in self._by_shape.items()]
        terms = np.array([shape.terms for shape, _ in samples])
        seconds = np.array([max(time, 1e-9) for _, time in samples])
        scaled = terms / seconds[:, None]
        # Of too few samples each term gets the like share, whatever its unit.
        sizes = np.maximum(np.abs(scaled).max(axis=0), 1e-300)
        scaled = scaled / sizes
        active = list(range(terms.shape[1]))
        while active:
            rates = np.linalg.lstsq(scaled[:, active], np.ones(len(seconds)), rcond=None)[0]
            if (rates >= 0).all():
                break
            del active[int(np.argmin(rates))]
        law = [0.0] * terms.shape[1]
        for place, rate in zip(active, rates if active else (), strict=True):
            law[place] = float(rate / sizes[place])
        self._law = tuple(law)
