"""Time cut into sections in which the same buffers live, sizes rounded up to what alignment costs, and the bound.

Sizes are rounded up to the greatest common divisor of the alignments, which loses nothing where all alignments are
equal: whoever lies above a buffer begins at a multiple anyway. Only the uppermost buffer's rounding is not needed; the
bound takes that into account, and the last few bytes are won without rounding.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from djinn_fx.solvers.packing.problem import Buffer, Problem


@dataclass(frozen=True)
class Sections:
    """A problem in small whole numbers.

    Attributes:
        places: which of the problem's buffers these are: those with a size.
        first: by buffer, the first section in which it lives.
        last: by buffer, the one behind its last section.
        sizes: by buffer, rounded up, in units.
        steps: by buffer, its offset is a multiple of so many units.
        count: how many sections there are.
        unit: bytes; offsets that are whole numbers of it suffice.
        bound: bytes below which no solution can be.
        slack: bytes that rounding may have added to the top of a solution.
    """

    places: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    count: int
    unit: int
    bound: int
    slack: int

    @property
    def fits_words(self) -> bool:
        """Whether every sum of sizes fits into 64 bits with room to spare."""
        return sum(self.sizes) + max(self.steps, default=0) * (len(self.sizes) + 1) < 1 << 60

    @property
    def uniform(self) -> bool:
        """Whether every whole number of units is aligned for every buffer."""
        return all(step == 1 for step in self.steps)


def sections_of(problem: Problem, *, rounded: bool = True) -> Sections:
    """Cut a problem's time where a buffer begins or ends.

    Args:
        problem: the buffers.
        rounded: sizes are rounded up to what alignment costs, which makes a search quick.
    """
    places = tuple(place for place, one in enumerate(problem.buffers) if one.size)
    buffers = [problem.buffers[place] for place in places]
    number = _numbered(buffers)
    first = tuple(number[one.lower] for one in buffers)
    last = tuple(number[one.upper] for one in buffers)
    common = math.gcd(*(one.alignment for one in buffers))
    padded = [-(-one.size // max(common, 1)) * common for one in buffers]
    waste = [whole - one.size for whole, one in zip(padded, buffers, strict=True)]
    even = all(one.alignment == common for one in buffers)
    unit = (math.gcd(*padded) if even else common) or 1
    sizes = padded if rounded else [one.size for one in buffers]
    if not rounded:
        unit, even = math.gcd(common, *sizes) or 1, False
    count = max(last, default=0)
    load = section_loads(first, last, padded, count)
    spare = _largest_by_section(first, last, waste, count)
    return Sections(
        places=places,
        first=first,
        last=last,
        sizes=tuple(size // unit for size in sizes),
        steps=tuple(1 if even else one.alignment // unit for one in buffers),
        count=count,
        unit=unit,
        bound=max((one - top for one, top in zip(load, spare, strict=True)), default=0),
        slack=max(waste, default=0) if rounded else 0,
    )


def _numbered(buffers: list[Buffer]) -> dict[int, int]:
    """By time at which something begins or ends, the number of the section that begins then or, where nobody lives
    from then on, of the next one.
    """
    change: Counter[int] = Counter()
    for one in buffers:
        change[one.lower] += 1
        change[one.upper] -= 1
    number, living, sections = dict[int, int](), 0, 0
    for time in sorted(change):
        number[time] = sections
        living += change[time]
        sections += living > 0
    return number


def section_loads(first: tuple[int, ...], last: tuple[int, ...], sizes: list[int], count: int) -> list[int]:
    """By section, the sum of the sizes of those that live in it."""
    change = [0] * (count + 1)
    for begin, end, size in zip(first, last, sizes, strict=True):
        change[begin] += size
        change[end] -= size
    return list(accumulate(change[:count]))


def _largest_by_section(first: tuple[int, ...], last: tuple[int, ...], values: list[int], count: int) -> list[int]:
    """By section, the largest value of those that live in it: largest first, each fills what is still empty."""
    largest = [0] * count
    following = list(range(count + 1))  # the next section that is still empty, with shortened paths
    for place in sorted(range(len(values)), key=values.__getitem__, reverse=True):
        if not values[place]:
            break
        at = _next_empty(following, first[place])
        while at < last[place]:
            largest[at] = values[place]
            following[at] = at + 1
            at = _next_empty(following, at)
    return largest


def _next_empty(following: list[int], at: int) -> int:
    end = at
    while following[end] != end:
        end = following[end]
    while following[at] != end:
        following[at], at = end, following[at]
    return end
