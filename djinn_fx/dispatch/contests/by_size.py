"""Contests of a graph whose sizes differ from call to call: who is the fastest depends on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.threads import new_lock

#: Contests for different sizes of one graph; further sizes share the latest.
_MAX_SIZES = 64


class ContestBySize:
    """A contest for each order of magnitude of the sizes that differ from call to call. A ``RegionCallable``.

    Args:
        places: where the size symbols are read off the arguments (``keys.symbol_places``).
        make: makes the contest for sizes like these; given the number of bits of each.
    """

    def __init__(self, places: Sequence[tuple[int, int | None]], make: Callable[[tuple[int, ...]], Contest]) -> None:
        self._places, self._make = tuple(places), make
        self.contests: dict[tuple[int, ...], Contest] = {}
        self._lock = new_lock()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call."""
        sizes = tuple(
            [int(args[place] if dim is None else args[place].shape[dim]).bit_length() for place, dim in self._places]
        )
        contest = self.contests.get(sizes)
        return (contest if contest is not None else self._new(sizes))(args)

    @property
    def distinct(self) -> list[Contest]:
        """Each contest once."""
        return list({id(one): one for one in list(self.contests.values())}.values())

    def _new(self, sizes: tuple[int, ...]) -> Contest:
        with self._lock:
            if sizes not in self.contests:
                full = len(self.contests) >= _MAX_SIZES
                self.contests[sizes] = next(reversed(self.contests.values())) if full else self._make(sizes)
            return self.contests[sizes]
