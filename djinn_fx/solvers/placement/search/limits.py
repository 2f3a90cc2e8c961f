"""How far forward or back a group may go where values only go forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from djinn_fx.solvers.placement.groups import Groups

Ints = npt.NDArray[np.int64]


class Limits:
    """Groups between those that come before and those that come after them.

    Args:
        groups: what is placed.
        rank: for each device how far forward it is; no two are equal.
    """

    def __init__(self, groups: Groups, rank: Sequence[int]) -> None:
        self._rank = np.array(rank, np.int64)
        self._order = np.array(groups.order, np.int64).reshape(-1, 2)
        self._before = _rows([(second, first) for first, second in groups.order], len(groups.members))
        self._after = _rows(list(groups.order), len(groups.members))

    def keep(self, at: Ints, row: Ints, group: Ints, new: Ints) -> npt.NDArray[np.bool_]:
        """Whether a group of a copy may go to a device, for many copies; ``at`` has a row a copy, a column a group."""
        rank = self._rank.take(new)
        may = np.ones(row.size, bool)
        for (first, count, others), sign in ((self._before, 1), (self._after, -1)):
            many = count.take(group)
            of = np.repeat(np.arange(row.size), many)
            place = np.arange(of.size) + (first.take(group) - np.cumsum(many) + many).take(of)
            theirs = self._rank.take(at[row.take(of), others.take(place)])
            may[of[(theirs - rank.take(of)) * sign > 0]] = False
        return may

    def barred(self, at: Ints) -> npt.NDArray[np.bool_]:
        """Where groups may not go, a row a group, a column a device."""
        low = np.full(at.size, -1, np.int64)
        high = np.full(at.size, self._rank.size, np.int64)
        first, second = self._order[:, 0], self._order[:, 1]
        np.maximum.at(low, second, self._rank[at[first]])
        np.minimum.at(high, first, self._rank[at[second]])
        return (self._rank[None, :] < low[:, None]) | (self._rank[None, :] > high[:, None])


def _rows(pairs: list[tuple[int, int]], count: int) -> tuple[Ints, Ints, Ints]:
    """For each first of pairs where its seconds begin, how many they are, and all seconds."""
    by = sorted(pairs)
    many = np.bincount(np.array([first for first, _ in by], np.int64), minlength=count)
    return np.cumsum(many) - many, many, np.array([second for _, second in by], np.int64)
