"""A valid answer at once, better ones until time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from djinn_fx.solvers.packing.greedy import lowest_fit, orders
from djinn_fx.solvers.packing.problem import Problem, Solution, height_of
from djinn_fx.solvers.packing.search import Search, worth_diving
from djinn_fx.solvers.packing.sections import Sections, sections_of
from djinn_fx.solvers.packing.skyline import LOOKS, fill_valleys

#: Buffers up to which they are placed one by one at the lowest place; the time grows with the square.
MOST_ONE_BY_ONE = 8_000
#: Seconds that an answer may take where nothing is said.
SECONDS = 1.0


def pack(problem: Problem, *, seconds: float | None = None, steps: int | None = None, seed: int = 0) -> Solution:
    """The best packing found; the last one of :func:`improvements`, which see."""
    *_, best = improvements(problem, seconds=seconds, steps=steps, seed=seed)  # the first comes whatever the limits
    return best


def improvements(
    problem: Problem, *, seconds: float | None = None, steps: int | None = None, seed: int = 0
) -> Iterator[Solution]:
    """Valid packings, each with a lower height or a higher bound than the one before; ends when nothing can be better.

    The first one comes within milliseconds for hundreds of buffers and is greedy's by size; for more than
    ``MOST_ONE_BY_ONE`` it is one that fills valleys, some 20 microseconds a buffer.

    Args:
        problem: the buffers.
        seconds: when to stop. Without it and without ``steps``: after ``SECONDS``.
        steps: nodes of a search after which to stop; a second search may win what rounding for alignment cost. With
            steps and without seconds the answers depend on nothing but the problem and the seed.
        seed: of the search's chance.
    """
    if seconds is None and steps is None:
        seconds = SECONDS
    end = None if seconds is None else time.monotonic() + seconds

    def late() -> bool:
        return end is not None and time.monotonic() >= end

    cut = sections_of(problem)
    best: Solution | None = None
    for found_by, offsets in _ready_answers(cut):
        found = _solution(problem, cut, offsets, cut.bound, found_by)
        if best is None or found.height < best.height:
            best = found
            yield best
        if best.optimal or late():
            return
    if best is None or not worth_diving(cut):
        return
    for better in _searched(problem, cut, best, steps, seed, late):
        best = better
        yield best
    if cut.slack and not best.optimal:
        yield from _searched(problem, sections_of(problem, rounded=False), best, steps, seed, late)


def _ready_answers(cut: Sections) -> Iterator[tuple[str, list[int]]]:
    """Packings that are built without a search, by the name of how."""
    if not cut.sizes:
        yield "nothing to place", []
        return
    if len(cut.sizes) <= MOST_ONE_BY_ONE:
        for name, order in orders(cut):
            yield f"greedy by {name}", lowest_fit(cut, order)
    for look in LOOKS:
        yield "filling valleys", fill_valleys(cut, look)


def _searched(
    problem: Problem, cut: Sections, best: Solution, steps: int | None, seed: int, late: Callable[[], bool]
) -> Iterator[Solution]:
    tops = (best.offsets[place] // cut.unit + size for place, size in zip(cut.places, cut.sizes, strict=True))
    search = Search(cut, max(tops), seed)
    while search.least < search.height and not best.optimal and not late():
        left = None if steps is None else steps - search.nodes
        if left is not None and left <= 0:
            return
        offsets = search.dive(left, late)
        bound = max(best.bound, min(search.least * cut.unit - cut.slack, best.height))
        found = best if offsets is None else _solution(problem, cut, offsets, bound, "search")
        if found.height >= best.height:  # lower in whole units, but not in bytes
            found = best
        if found.height < best.height or bound > best.bound:
            best = Solution(found.offsets, found.height, min(bound, found.height), found.found_by)
            yield best


def _solution(problem: Problem, cut: Sections, found: list[int], bound: int, found_by: str) -> Solution:
    offsets = [0] * len(problem.buffers)
    for place, offset in zip(cut.places, found, strict=True):
        offsets[place] = offset * cut.unit
    return Solution(tuple(offsets), height_of(problem, offsets), bound, found_by)
