"""Numbers of pages that may be handed out: what every place for pages has in common."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Slots:
    """Hands out numbers, and takes them back.

    Args:
        numbers: in order.
    """

    def __init__(self, numbers: range) -> None:
        # The lowest first: pages that are handed out together tend to lie together, and are copied as one run.
        self._free = list(numbers)

    @property
    def free(self) -> int:
        """Pages that may be handed out."""
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """Numbers of pages, lowest first, their contents as they were left; None where there are not so many."""
        if count > len(self._free):
            return None
        return [heapq.heappop(self._free) for _ in range(count)]

    def give(self, slots: Iterable[int]) -> None:
        """Take pages back."""
        for slot in slots:
            heapq.heappush(self._free, slot)

    def free_slots(self) -> frozenset[int]:
        """The pages that may be handed out, for checks."""
        return frozenset(self._free)
