"""Dive after dive, each with another taste, towards the bound and by turns to a little below the best so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from djinn_fx.solvers.packing.sections import Sections
from djinn_fx.solvers.packing.table import Table
from djinn_fx.solvers.packing.tree import Dive, liking, taste_of

#: Cells (buffers times the larger of sections and buffers) above which a node is too dear for this search.
MOST_CELLS = 3_000_000
#: Nodes of a dive: most that succeed hardly turn back, so many short dives beat a long one.
NODES = 1000
#: Nodes of every so many dives, in problems of so few buffers: those can be searched to the end.
LONG_NODES, LONG_EVERY, LONG_BUFFERS = 30_000, 8, 100


def worth_diving(cut: Sections) -> bool:
    """Whether the problem is small enough for :class:`Search`."""
    return cut.fits_words and len(cut.sizes) * max(cut.count, len(cut.sizes)) <= MOST_CELLS


@dataclass
class Search:
    """A search that is asked for one dive at a time.

    Attributes:
        cut: the problem.
        height: of the best packing so far, in units.
        seed: of everything that is left to chance.
        least: no packing is lower, in units: raised where a dive proves it.
        nodes: nodes visited so far.
    """

    cut: Sections
    height: int
    seed: int
    nodes: int = 0
    least: int = field(init=False)
    _share: float = 0.5
    _dives: int = 0

    def __post_init__(self) -> None:
        self._table = Table.of(self.cut)
        self._chance = np.random.default_rng(self.seed)
        self._blame = np.ones(self.cut.count)
        self.least = max(int(self._table.load.max()), -(-self.cut.bound // self.cut.unit))

    def dive(self, most: int | None, stop: Callable[[], bool]) -> list[int] | None:
        """The offsets of a packing lower than ``height``, if this dive finds one.

        Args:
            most: nodes it may visit, if not as many as it likes.
            stop: asked now and then whether to give up.
        """
        capacity = self._capacity()
        taste = taste_of(self._dives, self._chance)
        self._blame = 1 + (self._blame - 1) * 0.95
        self._dives += 1
        long = self._table.buffers <= LONG_BUFFERS and self._dives % LONG_EVERY == 0
        limit = LONG_NODES if long else max(NODES, 3 * self._table.buffers)
        likes = liking(self._table, taste, self._chance)
        dive = Dive(self._table, capacity, likes, taste, self._blame, min(limit, most or limit), stop)
        found = dive.run()
        self.nodes += dive.nodes
        if capacity > self.least:
            self._share = min(0.9, self._share * 1.5) if found else self._share * 0.8
        if found is False:
            self.least = min(max(self.least, dive.needed), self.height)
        if not found:
            return None
        self.height = max(offset + size for offset, size in zip(dive.offsets, self.cut.sizes, strict=True))
        return dive.offsets

    def _capacity(self) -> int:
        """The height to dive for: the least, and by turns something nearer, as near as has proved to be in reach."""
        if self._dives % 4:
            return self.least
        return self.height - max(1, int((self.height - self.least) * self._share))
