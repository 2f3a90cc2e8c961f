"""Sets of groups that hold everything that comes before their members: what a pipeline has done after some stages.

A placement in which values only go forward is a chain of such sets, called ideals; a stage is what one has more than
the one before. Sets are whole numbers, group ``g`` at bit ``g``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from djinn_fx.solvers.placement.groups import Groups

Flags = npt.NDArray[np.bool_]


class Order:
    """Who comes before whom.

    Attributes:
        count: how many groups.
        after: groups right behind each.
        before: groups right before each, as a set in one number.
    """

    def __init__(self, groups: Groups) -> None:
        self.count = len(groups.members)
        self.after: list[list[int]] = [[] for _ in range(self.count)]
        self.before = [0] * self.count
        for first, second in groups.order:
            self.after[first].append(second)
            self.before[second] |= 1 << first

    def may_come(self, ideal: int) -> list[int]:
        """Groups that can come next."""
        return [g for g in range(self.count) if not ideal >> g & 1 and self.before[g] & ideal == self.before[g]]


def all_ideals(order: Order, limit: int) -> list[int] | None:
    """Every ideal, or None where there are more than ``limit``."""
    found, seen = [0], {0}
    level = [(0, order.may_come(0))]
    while level:
        grown = []
        for ideal, free in level:
            for group in free:
                larger = ideal | 1 << group
                if larger in seen:
                    continue
                seen.add(larger)
                found.append(larger)
                freed = [one for one in order.after[group] if order.before[one] & larger == order.before[one]]
                grown.append((larger, [one for one in free if one != group] + freed))
            if len(found) > limit:
                return None
        level = grown
    return found


def prefixes(line: Sequence[int]) -> list[int]:
    """The ideals of a line of groups."""
    found = [0]
    for group in line:
        found.append(found[-1] | 1 << group)
    return found


def rows_of(ideals: Sequence[int], count: int) -> Flags:
    """A row an ideal, a column a group."""
    width = (count + 7) // 8
    packed = np.frombuffer(b"".join(one.to_bytes(width, "little") for one in ideals), np.uint8)
    return np.unpackbits(packed.reshape(len(ideals), width), axis=1, count=count, bitorder="little").astype(bool)
