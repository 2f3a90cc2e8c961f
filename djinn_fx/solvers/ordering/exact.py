"""The lowest peak there is, by looking at sets of nodes that may have run; those reached with the lowest peaks first.

How many such sets there are depends on how many nodes may run side by side. A node that is ready, fits under the peak
so far and leaves no more behind than was there may as well run at once: any order in which it comes later is no
better. That and the peak of a known order keep most sets out.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from djinn_fx.solvers.ordering.problem import Problem


@dataclass(frozen=True)
class Found:
    """What a search has shown, ended or not.

    Attributes:
        bound: no order has a lower peak; where none is below the peak that was known, that one.
        order: the best one, if one is below the peak that was known and the search came to it.
        steps: how many nodes were tried after some set of others.
    """

    bound: int
    order: tuple[int, ...] | None
    steps: int


def search(problem: Problem, known: int, bound: int, steps: int) -> Found:
    """Look for the lowest peak.

    Args:
        problem: the nodes.
        known: the peak of an order at hand, in bytes: only lower ones are of interest.
        bound: bytes below which no order's peak is.
        steps: how many nodes to try, at most.
    """
    choices = _Choices(problem)
    live = problem.held + sum(one.nbytes for one in problem.storages if one.given)
    waiting = [(bound, 0, 0, live, choices.ready)] if bound < known else []
    reached_by: dict[int, tuple[int, int, int]] = {0: (bound, 0, -1)}
    seen: set[int] = set()
    tried = 0
    while waiting:
        peak, minus_ran, mask, live, ready = heapq.heappop(waiting)
        if mask in seen:
            continue
        if mask == choices.whole:
            return Found(peak, _way(reached_by, mask), tried)
        if tried >= steps:
            return Found(peak, None, tried)
        seen.add(mask)
        options = choices.of(mask, live, peak, ready)
        tried = choices.tried
        for node, level, after in options:
            then, most = mask | 1 << node, max(peak, level)
            if most < known and (then not in reached_by or most < reached_by[then][0]):
                reached_by[then] = (most, mask, node)
                heapq.heappush(waiting, (most, minus_ran - 1, then, after, choices.ready_after(node, then, ready)))
    return Found(known, None, tried)


class _Choices:
    """What may run next; sets of nodes are bits of a number."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self.tried = problem, 0
        self._before = [sum(1 << one for one in earlier) for earlier in problem.before]
        self._touched = [sum(1 << node for node in one.touched) for one in problem.storages]
        self.whole = (1 << problem.size) - 1
        self.ready = sum(1 << node for node, earlier in enumerate(self._before) if not earlier)

    def ready_after(self, node: int, mask: int, ready: int) -> int:
        """What may run once this node has: of what could before, and of what waited for it."""
        ready ^= 1 << node
        for one in self._problem.after[node]:
            if not self._before[one] & ~mask:
                ready |= 1 << one
        return ready

    def of(self, mask: int, live: int, peak: int, ready: int) -> list[tuple[int, int, int]]:
        """Nodes that may run, with the bytes meanwhile and afterwards; one alone where that one is never wrong."""
        found = []
        while ready:
            bit = ready & -ready
            ready ^= bit
            node = bit.bit_length() - 1
            self.tried += 1
            level, after = self._run(node, mask, live)
            if level <= peak and after <= live:
                return [(node, level, after)]
            found.append((node, level, after))
        return found

    def _run(self, node: int, mask: int, live: int) -> tuple[int, int]:
        then, freed = mask | 1 << node, 0
        for place in self._problem.touches[node]:
            storage, touched = self._problem.storages[place], self._touched[place]
            if not storage.given and not touched & mask:
                live += storage.nbytes
            if not storage.kept and not touched & ~then:
                freed += storage.nbytes
        return live + self._problem.workspace[node], live - freed


def _way(reached_by: dict[int, tuple[int, int, int]], mask: int) -> tuple[int, ...]:
    found = []
    while mask:
        _, mask, node = reached_by[mask]
        found.append(node)
    return tuple(reversed(found))
