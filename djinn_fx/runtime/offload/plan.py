"""What of a model's weights stays in memory under a budget, and what is read on every pass. Plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from djinn_fx.errors import InfeasibleError
from djinn_fx.units import format_bytes

#: The ring holds this many of the largest weight that goes through it: one is used, one is read, and a third is for
#: the rest at the ring's end.
RING_DEPTH = 3
#: Smaller weights always stay: their reads would cost more than their memory.
SMALL_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One weight, as far as the plan is concerned.

    Attributes:
        name: for messages.
        size: bytes that it takes in memory, whole blocks.
        uses: how often a pass reads it.
        by_rows: it is only ever looked up row by row, so it need be neither in memory nor in the ring.
    """

    name: str
    size: int
    uses: int = 1
    by_rows: bool = False


@dataclass(frozen=True, kw_only=True)
class Room:
    """A budget, in bytes.

    Attributes:
        budget: for all of the process.
        held: what the process takes without the weights.
        working: kept free for activations, caches and kernels' own memory.
    """

    budget: int
    held: int
    working: int

    @property
    def for_weights(self) -> int:
        """What is left for weights and the ring."""
        return self.budget - self.held - self.working


@dataclass(frozen=True, kw_only=True)
class Residency:
    """Where each weight is.

    Attributes:
        pinned: numbers of the weights that stay in memory.
        streamed: of those that go through the ring.
        by_rows: of those that are looked up in the file.
        ring_bytes: size of the ring.
        pinned_bytes: of what stays.
        pass_bytes: what a pass reads, rows aside.
    """

    pinned: tuple[int, ...]
    streamed: tuple[int, ...]
    by_rows: tuple[int, ...]
    ring_bytes: int
    pinned_bytes: int
    pass_bytes: int


def residency(weights: Sequence[Weight], room: Room) -> Residency:
    """The plan that reads the fewest bytes a pass.

    A cyclic scan defeats any cache that keeps what was used last, so a fixed part stays. The largest weights decide how
    large the ring must be; every number of them that stay is tried, and what room is left goes to others, spread evenly
    over the order of use, so that reading never waits long for room.

    Args:
        weights: in the order of use.
        room: the budget.

    Raises:
        InfeasibleError: the budget is too small; names the weight that binds and the smallest budget that does.
    """
    everything = sum(w.size for w in weights)
    small = [n for n, w in enumerate(weights) if w.size <= SMALL_BYTES]
    by_rows = [n for n, w in enumerate(weights) if w.by_rows and w.size > SMALL_BYTES]
    if everything <= room.for_weights:
        return _made(weights, set(range(len(weights))), [], 0)
    others = [n for n in range(len(weights)) if n not in {*small, *by_rows}]
    others.sort(key=lambda n: (-weights[n].size, n))
    kept = sum(weights[n].size for n in small)
    for depth in range(RING_DEPTH, 0, -1):
        plans = [
            plan
            for count in range(len(others) + 1)
            if (plan := _with_largest(weights, (small, others[:count], others[count:], by_rows), room, depth))
        ]
        if plans:
            return min(plans, key=lambda plan: plan.pass_bytes)
    raise InfeasibleError(_too_small(weights, others, kept, room))


def _with_largest(
    weights: Sequence[Weight], parts: tuple[list[int], list[int], list[int], list[int]], room: Room, depth: int
) -> Residency | None:
    """The plan in which the small and some of the largest stay, if the rest has its ring then."""
    small, staying, passing, by_rows = parts
    left = room.for_weights - sum(weights[n].size for n in (*small, *staying))
    largest = max((weights[n].size for n in passing), default=0)
    ring = min(depth * largest, sum(weights[n].size for n in passing))
    if ring > left:
        return None
    also = _spread(weights, sorted(passing), left - ring)
    made = _made(weights, {*small, *staying, *also}, by_rows, ring)
    spare = left - ring - sum(weights[n].size for n in also)
    return replace(made, ring_bytes=min(ring + spare, RING_DEPTH * largest)) if made.streamed else made


def _spread(weights: Sequence[Weight], passing: Sequence[int], left: int) -> list[int]:
    """Which of these stay as well: what is read twice a pass first, then the same share everywhere in the order."""
    chosen: list[int] = []
    for number in sorted(passing, key=lambda n: -weights[n].uses):
        if weights[number].uses > 1 and weights[number].size <= left:
            chosen.append(number)
            left -= weights[number].size
    rest = [n for n in passing if n not in set(chosen)]
    total = sum(weights[n].size for n in rest)
    share, due = (left / total if total else 0.0), 0.0
    skipped = []
    for number in rest:
        due += share * weights[number].size
        if weights[number].size <= min(due, left):
            chosen.append(number)
            due -= weights[number].size
            left -= weights[number].size
        else:
            skipped.append(number)
    for number in skipped:  # the crumbs
        if weights[number].size <= left:
            chosen.append(number)
            left -= weights[number].size
    return chosen


def _made(weights: Sequence[Weight], pinned: set[int], by_rows: Sequence[int], ring: int) -> Residency:
    rows = tuple(n for n in by_rows if n not in pinned)
    streamed = tuple(n for n in range(len(weights)) if n not in pinned and n not in set(rows))
    return Residency(
        pinned=tuple(sorted(pinned)),
        streamed=streamed,
        by_rows=rows,
        ring_bytes=ring if streamed else 0,
        pinned_bytes=sum(weights[n].size for n in pinned),
        pass_bytes=sum(weights[n].size * weights[n].uses for n in streamed),
    )


def _too_small(weights: Sequence[Weight], others: Sequence[int], kept: int, room: Room) -> str:
    """The error: what binds, and what would do."""
    largest = weights[others[0]].size if others else 0
    needed = room.held + room.working + kept + largest
    what = f"{weights[others[0]].name!r} alone takes {format_bytes(largest)}" if others else "small weights stay whole"
    return (
        f"a budget of {format_bytes(room.budget)} is too small: the process holds {format_bytes(room.held)}, "
        f"{format_bytes(room.working)} are kept for activations, small weights take {format_bytes(kept)}, and {what}; "
        f"the smallest budget is {needed} bytes ({format_bytes(needed)})"
    )
