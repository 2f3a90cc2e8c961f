"""Which pages hold a session's rows and states, and where in the pool each row is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from djinn_fx.sessions.caches.layout import Group, Kept, Layout

#: Numbers of rows in the device pool.
Rows = npt.NDArray[np.int64]


@dataclass
class PageList:
    """Pages of one group.

    Attributes:
        pages: in the order of their tokens.
        gone: pages in front of them that no token sees any more.
    """

    pages: list[int] = field(default_factory=list)
    gone: int = 0


@dataclass
class Holding:
    """All pages of a session.

    Attributes:
        layout: of the model.
        lists: one for each group.
        states: pages of the states.
        cached: tokens whose rows are there.
        encoded: tokens of the encoder whose rows are there.
    """

    layout: Layout
    lists: list[PageList]
    states: list[int] = field(default_factory=list)
    cached: int = 0
    encoded: int = 0

    @staticmethod
    def empty(layout: Layout) -> Holding:
        """Nothing yet."""
        return Holding(layout, [PageList() for _ in layout.groups])

    def copy(self) -> Holding:
        """The same pages, in lists of its own."""
        lists = [PageList(list(one.pages), one.gone) for one in self.lists]
        return Holding(self.layout, lists, list(self.states), self.cached, self.encoded)

    def __iter__(self) -> Iterator[int]:
        """Every page; those of the context's beginning first."""
        yield from self.states
        for one in self.lists:
            yield from one.pages

    def __len__(self) -> int:
        return len(self.states) + sum(len(one.pages) for one in self.lists)

    def tokens_of(self, group: Group) -> int:
        """Tokens whose rows are there."""
        return self.encoded if group.kept is Kept.ENCODED else self.cached

    def missing_for(self, more: int, encoded: int = 0) -> list[int]:
        """Pages to be added to each list, so that so many tokens (or an encoder's) have room."""
        size = self.layout.page_bytes
        found = []
        for group, held in zip(self.layout.groups, self.lists, strict=True):
            tokens = encoded if group.kept is Kept.ENCODED else self.cached + more
            pages = -(-tokens // group.page_tokens(size))
            found.append(max(0, pages - held.gone - len(held.pages)))
        return found

    def written_by(self, more: int) -> Iterator[tuple[list[int], int]]:
        """Pages that a step of so many tokens writes to and that are there: their list and their place in it."""
        yield from ((self.states, place) for place in range(len(self.states)))
        for group, held in zip(self.layout.groups, self.lists, strict=True):
            if group.kept is not Kept.ENCODED and self.cached % group.page_tokens(self.layout.page_bytes):
                place = self.cached // group.page_tokens(self.layout.page_bytes) - held.gone
                if place < len(held.pages):
                    yield held.pages, place

    def unseen(self) -> list[int]:
        """Take out of the lists the pages of windows that no further token sees."""
        found = []
        for group, held in zip(self.layout.groups, self.lists, strict=True):
            if group.kept is Kept.WINDOW:
                gone = group.seen_from(self.cached) // group.page_tokens(self.layout.page_bytes) - held.gone
                found += held.pages[:gone]
                del held.pages[:gone]
                held.gone += max(0, gone)
        return found

    def cut(self, tokens: int) -> list[int]:
        """Take out of the lists the pages behind so many tokens; where rows cannot be cut, all."""
        if tokens and not self.layout.shares:
            tokens = 0
        found = []
        if not tokens:
            found = list(self)
            self.lists = [PageList() for _ in self.layout.groups]
            self.states, self.cached, self.encoded = [], 0, 0
            return found
        for group, held in zip(self.layout.groups, self.lists, strict=True):
            stay = -(-tokens // group.page_tokens(self.layout.page_bytes))
            found += held.pages[stay:]
            del held.pages[stay:]
        self.cached = min(self.cached, tokens)
        return found


def rows_of(group: Group, held: PageList, places: npt.NDArray[np.int32], first: int, count: int, size: int) -> Rows:
    """Where tokens' rows of a group's first segment are.

    Args:
        group: of layers.
        held: its pages.
        places: on the device, by page.
        first, count: the tokens.
        size: bytes of a page.
    """
    each = group.page_tokens(size)
    tokens = np.arange(first, first + count)
    pages = np.asarray(held.pages, dtype=np.int64)
    starts = places[pages].astype(np.int64) * (size // group.row_bytes)
    rows: Rows = starts[tokens // each - held.gone] + tokens % each
    return rows
