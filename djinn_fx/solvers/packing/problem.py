"""What is packed, and an answer: buffers with lifetimes, and an offset for each.

Buffers whose lifetimes overlap must lie apart in one arena whose height is to be small. Which device an arena is on is
not said here: one problem is one arena.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from djinn_fx.errors import SolverError


@dataclass(frozen=True)
class Buffer:
    """A piece of memory that is needed for a while.

    Attributes:
        lower: when it is needed from, in positions of a schedule.
        upper: when it is no longer needed: the interval is half-open.
        size: bytes; 0 takes no room and overlaps with nothing.
        alignment: its offset must be a multiple of so many bytes.
    """

    lower: int
    upper: int
    size: int
    alignment: int = 1


@dataclass(frozen=True)
class Problem:
    """Buffers for one arena.

    Attributes:
        buffers: in any order; a solution's offsets are in the same one.

    Raises:
        SolverError: a buffer is none, such as one that ends before it begins.
    """

    buffers: tuple[Buffer, ...]

    def __post_init__(self) -> None:
        for place, one in enumerate(self.buffers):
            wrong = _what_is_wrong(one)
            if wrong:
                raise SolverError(f"buffer {place} cannot be packed: {wrong}; it is {one}")

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Problem:
        """From rows of lower, upper, size, and an alignment where there is one."""
        return cls(tuple(Buffer(*row) for row in rows))

    @cached_property
    def total_bytes(self) -> int:
        """The height of the arena in which nothing is ever used again."""
        return sum(one.size + one.alignment - 1 for one in self.buffers)


def _what_is_wrong(one: Buffer) -> str | None:
    numbers = (one.lower, one.upper, one.size, one.alignment)
    if any(type(number) is not int for number in numbers):
        return "lower, upper, size and alignment are whole numbers"
    if one.upper <= one.lower:
        return "its interval is half-open, so upper must be above lower"
    if one.size < 0:
        return "its size is below 0"
    if one.alignment < 1:
        return "its alignment is below 1"
    return None


@dataclass(frozen=True)
class Solution:
    """An answer, and how good it is known to be.

    Attributes:
        offsets: bytes from the arena's start, in the order of the problem's buffers.
        height: bytes that the arena needs.
        bound: bytes below which no solution's height can be.
        found_by: the method, for reports.
    """

    offsets: tuple[int, ...]
    height: int
    bound: int
    found_by: str

    @property
    def optimal(self) -> bool:
        """Whether no lower solution can exist."""
        return self.height == self.bound

    @property
    def gap(self) -> float:
        """By how much the height is above the bound, as a share of the bound."""
        return (self.height - self.bound) / self.bound if self.bound else 0.0


def height_of(problem: Problem, offsets: Iterable[int]) -> int:
    """Bytes that an arena needs for these offsets."""
    ends = (offset + one.size for offset, one in zip(offsets, problem.buffers, strict=True) if one.size)
    return max(ends, default=0)
