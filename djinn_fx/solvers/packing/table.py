"""What a dive looks up: who lives when, beside whom, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from djinn_fx.solvers.packing.sections import Sections

Ints: TypeAlias = NDArray[np.int64]

#: Above every offset: a buffer that is placed, a section that is full.
NEVER = np.int64(1 << 61)


@dataclass(frozen=True)
class Table:
    """A cut problem as arrays.

    Attributes:
        buffers: how many.
        sections: how many.
        first: by buffer, its first section.
        last: by buffer, the one behind its last section.
        starts: the same as ``first``, as an array.
        ends: the same as ``last``, as an array.
        sizes: by buffer, in units.
        steps: by buffer, its alignment in units; None where all are 1.
        kinds: by buffer, equal for those with equal interval, size and alignment.
        load: by section, the sum of sizes.
        living: by section, the buffers that live in it.
        room: by buffer and section, its size where it lives.
        beside: by buffer and buffer, -1 (all bits) where both live at some time, else 0.
    """

    buffers: int
    sections: int
    first: list[int]
    last: list[int]
    starts: Ints
    ends: Ints
    sizes: Ints
    steps: Ints | None
    kinds: list[int]
    load: Ints
    living: list[Ints]
    room: Ints
    beside: Ints
    _entries: Ints
    _bounds: Ints

    @classmethod
    def of(cls, cut: Sections) -> Table:
        """The arrays of a cut problem, whose sums must fit into words. Takes buffers x sections x 8 bytes and more."""
        starts, ends = np.array(cut.first, dtype=np.int64), np.array(cut.last, dtype=np.int64)
        sizes = np.array(cut.sizes, dtype=np.int64)
        time = np.arange(cut.count)
        covers = (starts[:, None] <= time) & (time < ends[:, None])
        sections, entries = np.nonzero(covers.T)
        bounds = np.searchsorted(sections, np.arange(cut.count + 1))
        number: dict[tuple[int, ...], int] = {}
        rows = zip(cut.first, cut.last, cut.sizes, cut.steps, strict=True)
        room = covers * sizes[:, None]
        return cls(
            buffers=len(cut.sizes),
            sections=cut.count,
            first=list(cut.first),
            last=list(cut.last),
            starts=starts,
            ends=ends,
            sizes=sizes,
            steps=None if cut.uniform else np.array(cut.steps, dtype=np.int64),
            kinds=[number.setdefault(row, len(number)) for row in rows],
            load=room.sum(axis=0),
            living=[entries[begin:end] for begin, end in pairwise(bounds.tolist())],
            room=room,
            beside=-((starts[:, None] < ends) & (starts < ends[:, None])).astype(np.int64),
            _entries=entries,
            _bounds=bounds,
        )

    def window(self, begin: int, end: int) -> slice:
        """The sections in which somebody lives who also lives in one of these."""
        near = (self.starts < end) & (self.ends > begin)
        return slice(int(self.starts[near].min()), int(self.ends[near].max()))

    def floors(self, lowest: Ints, window: slice) -> Ints:
        """By section of the window, the lowest of what its buffers can have; rows are states."""
        begin, end = self._bounds[window.start], self._bounds[window.stop]
        entries, bounds = self._entries[begin:end], self._bounds[window] - begin
        return np.minimum.reduceat(lowest[..., entries], bounds, axis=-1)

    def aligned(self, offsets: Ints, which: Ints | slice) -> Ints:
        """The offsets, each raised to a multiple of its buffer's alignment."""
        if self.steps is None:
            return offsets
        steps = self.steps[which]
        return np.where(offsets >= NEVER, NEVER, -(-offsets // steps) * steps)
