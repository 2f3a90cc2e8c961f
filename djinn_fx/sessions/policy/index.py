"""Contexts in the order of a key that may change: a heap whose old places are skipped."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from djinn_fx.sessions.policy.state import Context


class Ordered:
    """Contexts, the one with the least key first. Setting, dropping and each step of a walk take O(log n) steps.

    A context that is given another key leaves its old place behind, which is thrown away when a walk comes to it, or
    all at once when old places outnumber the true ones.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Context]] = []
        self._places: dict[str, tuple[float, int]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, context: Context) -> bool:
        return context.key in self._places

    def set(self, context: Context, key: float) -> None:
        """Enter a context, or give it another key."""
        number = next(self._numbers)
        self._places[context.key] = (key, number)
        heapq.heappush(self._heap, (key, number, context))
        if len(self._heap) > 2 * len(self._places) + 64:
            self._heap = [one for one in self._heap if self._places.get(one[2].key) == one[:2]]
            heapq.heapify(self._heap)

    def drop(self, context: Context) -> None:
        """Take a context out, if it is in."""
        self._places.pop(context.key, None)

    def key(self, context: Context) -> float | None:
        """Its key; None if it is not in."""
        place = self._places.get(context.key)
        return None if place is None else place[0]

    def first(self) -> tuple[float, Context] | None:
        """The least key and whose it is."""
        heap, places = self._heap, self._places
        while heap:
            key, number, context = heap[0]
            if places.get(context.key) == (key, number):
                return key, context
            heapq.heappop(heap)
        return None

    def pop(self) -> tuple[float, Context] | None:
        """The least key and whose it is, taken out."""
        found = self.first()
        if found is not None:
            heapq.heappop(self._heap)
            del self._places[found[1].key]
        return found

    def walk(self) -> Iterator[tuple[float, Context]]:
        """All of them in order. Those passed are still in when the walk ends, unless dropped or set meanwhile."""
        passed: list[tuple[float, int, Context]] = []
        try:
            while self.first() is not None:
                one = heapq.heappop(self._heap)
                passed.append(one)
                yield one[0], one[2]
        finally:
            for one in passed:
                if self._places.get(one[2].key) == one[:2]:
                    heapq.heappush(self._heap, one)
