"""One buffer after another, each at the lowest place that is free while it lives.

What comes of it depends on the order; several are tried. Ten to twenty microseconds a buffer in the hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from djinn_fx.solvers.packing.sections import Sections, section_loads

#: By name, what a buffer is sorted by, given its size, duration and largest load around it; the largest comes first.
ORDERS: dict[str, Callable[[int, int, int], tuple[int, ...]]] = {
    "size": lambda size, duration, load: (size, duration),
    "area": lambda size, duration, load: (size * duration, size),
    "duration": lambda size, duration, load: (duration, size),
    "load": lambda size, duration, load: (load, duration, size),
    "load and size": lambda size, duration, load: (load, size, duration),
}


def orders(cut: Sections) -> Iterator[tuple[str, list[int]]]:
    """The orders worth trying, by name, greedy by size before all."""
    around = _largest_load(cut)
    rows = [(size, end - begin) for size, begin, end in zip(cut.sizes, cut.first, cut.last, strict=True)]
    for name, key in ORDERS.items():
        keys = [key(size, duration, load) for (size, duration), load in zip(rows, around, strict=True)]
        yield name, sorted(range(len(rows)), key=keys.__getitem__, reverse=True)


def _largest_load(cut: Sections) -> list[int]:
    """By buffer, the largest load of a section in which it lives, by blocks of two, four, eight … sections."""
    blocks = [section_loads(cut.first, cut.last, list(cut.sizes), cut.count)]
    while 2 << len(blocks) <= 2 * cut.count:
        half, below = 1 << (len(blocks) - 1), blocks[-1]
        blocks.append([max(pair) for pair in zip(below, below[half:], strict=False)])
    found = []
    for begin, end in zip(cut.first, cut.last, strict=True):
        level = (end - begin).bit_length() - 1
        found.append(max(blocks[level][begin], blocks[level][end - (1 << level)]))
    return found


def lowest_fit(cut: Sections, order: Sequence[int]) -> list[int]:
    """Offsets in units, by buffer, when they are placed in this order."""
    kind: Any = np.int64 if cut.fits_words else object
    placed = _Placed(len(order), kind)
    offsets = [0] * len(order)
    for buffer in order:
        offset = placed.lowest(cut.first[buffer], cut.last[buffer], cut.sizes[buffer], cut.steps[buffer])
        placed.add(cut.first[buffer], cut.last[buffer], offset, cut.sizes[buffer])
        offsets[buffer] = offset
    return offsets


class _Placed:
    """The buffers placed so far, as columns."""

    def __init__(self, most: int, kind: Any) -> None:
        self._first = np.empty(most, dtype=np.int64)
        self._last = np.empty(most, dtype=np.int64)
        self._begin: NDArray[Any] = np.empty(most, dtype=kind)
        self._end: NDArray[Any] = np.empty(most, dtype=kind)
        self._count = 0

    def add(self, first: int, last: int, offset: int, size: int) -> None:
        at = self._count
        self._first[at], self._last[at] = first, last
        self._begin[at], self._end[at] = offset, offset + size
        self._count += 1

    def lowest(self, first: int, last: int, size: int, step: int) -> int:
        """The lowest offset at which so many units are free from one section to the other."""
        here = slice(self._count)
        beside = np.flatnonzero((self._first[here] < last) & (self._last[here] > first))
        if not len(beside):
            return 0
        begin = self._begin[beside]
        rising = np.argsort(begin)
        begin, end = begin[rising], np.maximum.accumulate(self._end[beside][rising])
        if begin[0] >= size:
            return 0
        starts = end if step == 1 else -(-end // step) * step
        wide = (begin[1:] - starts[:-1]) >= size
        return int(starts[wide.argmax() if wide.any() else -1])
