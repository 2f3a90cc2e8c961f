"""The upper edge of a packing that grows from the bottom, as runs of sections of equal height; nearly linear.

The lowest run is a valley. A buffer that lives within it and in its most loaded section is put on its floor, the
longest that is found; where none is left the valley is lifted to the lower one of its walls. So the most loaded
sections, which decide the height, are the last to waste room. A few microseconds a step: for 100,000 buffers and more.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from djinn_fx.solvers.packing.sections import Sections, section_loads


@dataclass(frozen=True, kw_only=True)
class Look:
    """How far is looked for the longest buffer.

    Attributes:
        scan: buffers looked at in a class of similar durations.
        coarse: bits by which durations in a class may differ.
        sized: whether area counts instead of duration.
    """

    scan: int = 16
    coarse: int = 1
    sized: bool = False


#: Looks worth trying, in this order.
LOOKS = (Look(), Look(scan=48, coarse=2), Look(scan=48), Look(scan=48, sized=True), Look(scan=16, coarse=2))


class Valley(NamedTuple):
    """A run of sections lower than those beside it; a wall that is not there is None."""

    begin: int
    end: int
    floor: int
    left: int | None
    right: int | None


def fill_valleys(cut: Sections, look: Look) -> list[int]:
    """Offsets in units, by buffer."""
    edge, waiting, loads = _Edge(cut.count), _Waiting(cut, look), _Loads(cut)
    offsets = [0] * len(cut.sizes)
    left = len(cut.sizes)
    while left:
        valley = edge.lowest()
        buffer = waiting.take(valley, loads.largest(valley.begin, valley.end))
        if buffer is None:
            edge.lift(valley)
            continue
        step = cut.steps[buffer]
        offsets[buffer] = -(-valley.floor // step) * step
        edge.put(valley, cut.first[buffer], cut.last[buffer], offsets[buffer] + cut.sizes[buffer])
        left -= 1
    return offsets


class _Edge:
    """Runs of equal height by their first section, and a heap of them, in which stale ones remain."""

    def __init__(self, sections: int) -> None:
        self._sections = sections
        self._end = {0: sections}
        self._height = {0: 0}
        self._before = {0: -1}
        self._heap = [(0, 0)]

    def lowest(self) -> Valley:
        """The lowest run, joined with equal ones beside it."""
        while True:
            floor, begin = heapq.heappop(self._heap)
            if self._height.get(begin) != floor:
                continue
            while self._end[begin] < self._sections and self._height[self._end[begin]] == floor:
                self._join(begin)
            before = self._before[begin]
            if before >= 0 and self._height[before] == floor:
                self._join(before)
                heapq.heappush(self._heap, (floor, before))
                continue
            end = self._end[begin]
            left = self._height[before] if before >= 0 else None
            right = self._height[end] if end < self._sections else None
            return Valley(begin, end, floor, left, right)

    def _join(self, begin: int) -> None:
        """A run swallows the one behind it."""
        gone = self._end[begin]
        self._end[begin] = self._end[gone]
        if self._end[gone] < self._sections:
            self._before[self._end[gone]] = begin
        del self._end[gone], self._height[gone], self._before[gone]

    def lift(self, valley: Valley) -> None:
        """Up to the lower wall."""
        self._set(valley.begin, min(wall for wall in (valley.left, valley.right) if wall is not None))

    def put(self, valley: Valley, first: int, last: int, top: int) -> None:
        """Something stands in a valley and ends at ``top``."""
        if last < valley.end:
            self._split(valley.begin, last)
            self._set(last, valley.floor)
        if first > valley.begin:
            self._split(valley.begin, first)
            self._set(valley.begin, valley.floor)
        self._set(first, top)

    def _split(self, begin: int, at: int) -> None:
        end = self._end[begin]
        self._end[begin], self._end[at], self._before[at] = at, end, begin
        if end < self._sections:
            self._before[end] = at

    def _set(self, begin: int, height: int) -> None:
        self._height[begin] = height
        heapq.heappush(self._heap, (height, begin))


class _Waiting:
    """Buffers not yet placed, in classes of similar durations, by where they begin."""

    def __init__(self, cut: Sections, look: Look) -> None:
        self._look = look
        members: dict[int, list[int]] = {}
        length = [end - begin for begin, end in zip(cut.first, cut.last, strict=True)]
        for buffer in sorted(range(len(length)), key=lambda one: (cut.first[one], -length[one])):
            members.setdefault((length[buffer].bit_length() - 1) // look.coarse, []).append(buffer)
        self._classes = [_Class(cut, buffers, level * look.coarse) for level, buffers in sorted(members.items())]
        self._worth = [one * size for one, size in zip(length, cut.sizes, strict=True)] if look.sized else length

    def take(self, valley: Valley, section: int) -> int | None:
        """The longest buffer found that lives within a valley, in this section if any does; it waits no more."""
        for must in (section, None):
            for one in reversed(self._classes):
                if one.left and one.shortest <= valley.end - valley.begin:
                    found = one.best(valley, must, self._look.scan, self._worth)
                    if found is not None:
                        return one.take(found)
        return None


class _Class:
    """Buffers whose durations are similar."""

    def __init__(self, cut: Sections, buffers: list[int], bits: int) -> None:
        self._buffers = buffers
        self._first = [cut.first[one] for one in buffers]
        self._last = [cut.last[one] for one in buffers]
        self._following = list(range(len(buffers) + 1))  # the next one that still waits, with shortened paths
        self.shortest = 1 << bits
        self._longest = max(end - begin for begin, end in zip(self._first, self._last, strict=True))
        self.left = len(buffers)

    def best(self, valley: Valley, must: int | None, scan: int, worth: Sequence[int]) -> int | None:
        """The place of the one that is worth most among the first ``scan`` that fit."""
        begin, latest = valley.begin, valley.end - self.shortest
        if must is not None:
            begin, latest = max(begin, must - self._longest + 1), min(latest, must)
        found, most, looked = None, -1, 0
        at = self._waiting(bisect_left(self._first, begin))
        while at < len(self._first) and self._first[at] <= latest and looked < 4 * scan:
            if self._last[at] <= valley.end and (must is None or self._last[at] > must):
                looked += 4
                if worth[self._buffers[at]] > most:
                    found, most = at, worth[self._buffers[at]]
            else:
                looked += 1  # one that does not fit costs a quarter, so that long scans end too
            at = self._waiting(at + 1)
        return found

    def take(self, at: int) -> int:
        self._following[at] = at + 1
        self.left -= 1
        return self._buffers[at]

    def _waiting(self, at: int) -> int:
        following, end = self._following, at
        while following[end] != end:
            end = following[end]
        while following[at] != end:
            following[at], at = end, following[at]
        return end


class _Loads:
    """Which section of a run is loaded most, by blocks of two, four, eight … sections."""

    def __init__(self, cut: Sections) -> None:
        kind: Any = np.int64 if cut.fits_words else object
        loads = np.array(section_loads(cut.first, cut.last, list(cut.sizes), cut.count), dtype=kind)
        blocks = [np.arange(cut.count, dtype=np.int32)]
        while 2 << len(blocks) <= 2 * cut.count:
            half, below = 1 << (len(blocks) - 1), blocks[-1]
            one, other = below[:-half], below[half:]
            blocks.append(np.where(loads[one] >= loads[other], one, other))
        self._blocks = [array("i", block.tobytes()) for block in blocks]  # compact, and fast to look up
        self._loads = loads.tolist()

    def largest(self, begin: int, end: int) -> int:
        level = (end - begin).bit_length() - 1
        one, other = self._blocks[level][begin], self._blocks[level][end - (1 << level)]
        return int(one if self._loads[one] >= self._loads[other] else other)
