"""Round numbers along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: Steps of an axis, times a power of ten.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: where, in per cent of its length, and its text."""

    at: float
    text: str


def ticks(end: float, text: Callable[[float], str], most: int = 5) -> tuple[Tick, ...]:
    """Marks from 0 to an axis's end, at round numbers, ``most`` at most beside that of 0."""
    if end <= 0:
        return (Tick(at=0.0, text="0"),)
    power = 10.0 ** math.floor(math.log10(end / most))
    step = next(power * one for one in (*_STEPS, 20.0) if power * one * most >= end * (1 - 1e-9))
    count = int(end / step + 1e-9)
    marks = [
        Tick(at=round(100 * place * step / end, 3), text=text(place * step).replace(".0 ", " "))
        for place in range(1, count + 1)
    ]
    return (Tick(at=0.0, text="0"), *marks)
