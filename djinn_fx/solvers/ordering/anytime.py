"""The order given, then better ones until nothing can be better or time is up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product

from djinn_fx.solvers.ordering.bounds import bound_at, forced_bound, own_bound
from djinn_fx.solvers.ordering.exact import search
from djinn_fx.solvers.ordering.problem import Problem, Solution, peak_of, profile_of
from djinn_fx.solvers.ordering.pulling import pulled
from djinn_fx.solvers.ordering.windows import flattened

#: Nodes that may be tried in looking for an order where nothing is said: for each node that there is, and at least.
STEPS, LEAST_STEPS = 200, 5_000
#: Where looking ahead has to stay, between the bound and the peak at hand.
_TARGETS = (0.0, 0.05, 0.25, 0.6)
#: A storage is too small to be looked at if that many for each node were a gap between peak and bound.
_SMALL = 8
#: Nodes up to which all orders are searched; what a set of nodes costs grows with their number.
_MOST_SEARCHED = 1_000


def best_order(problem: Problem, *, steps: int | None = None, seconds: float | None = None) -> Solution:
    """The best order found; the last one of :func:`improvements`, which see."""
    *_, best = improvements(problem, steps=steps, seconds=seconds)
    return best


def improvements(problem: Problem, *, steps: int | None = None, seconds: float | None = None) -> Iterator[Solution]:
    """Orders, each with a lower peak or a higher bound than the one before; the first one is the order given.

    Args:
        problem: the nodes.
        steps: nodes that may be tried in looking for one, some more or less; if None as many as ``STEPS`` says. Nothing
            but the problem and this decides what is found.
        seconds: when to stop besides; looked at between one method and the next.
    """
    left = max(LEAST_STEPS, STEPS * problem.size) if steps is None else steps
    end = None if seconds is None else time.monotonic() + seconds
    given = tuple(range(problem.size))
    profile = profile_of(problem, given)
    best = Solution(given, max(profile, default=problem.held), own_bound(problem), "as given")
    yield best
    for bound in _bounds(problem, profile):
        if best.optimal:
            return
        if bound > best.bound:
            best = Solution(given, best.peak, bound, best.found_by)
            yield best
    if best.optimal:
        return
    for method, share in ((_pulling, 0.7), (_flattening, 0.5), (_searching, 1.0)):
        for found, cost in method(problem, best, int(left * share)):
            left -= cost
            if found.peak < best.peak or found.bound > best.bound:
                best = found
                yield best
            if best.optimal or left <= 0 or (end is not None and time.monotonic() >= end):
                return


def _bounds(problem: Problem, profile: list[int]) -> Iterator[int]:
    """Higher ones than that of single nodes, the quickest first: where most is there, it mostly must be."""
    yield bound_at(problem, profile.index(max(profile))) if profile else 0
    yield forced_bound(problem)


def _pulling(problem: Problem, best: Solution, left: int) -> Iterator[tuple[Solution, int]]:
    """Forwards and backwards in turn, with several targets, as long as that gains something."""
    before = best.peak + 1
    while best.peak < before and left > 0 and not best.optimal:
        before, gap = best.peak, best.peak - best.bound
        for share, mirrored in product(_TARGETS, (False, True)):
            target = best.bound + int(gap * share)
            least = gap // (_SMALL * problem.size)
            found, cost = _pulled(problem, best.order, target, least, left, mirrored)
            peak, left = peak_of(problem, found), left - cost
            if peak < best.peak:
                best = Solution(found, peak, best.bound, "pulling")
            yield best, cost


def _pulled(
    problem: Problem, order: tuple[int, ...], target: int, least: int, steps: int, mirrored: bool
) -> tuple[tuple[int, ...], int]:
    if not mirrored:
        found, cost = pulled(problem, order, target, least, steps)
        return tuple(found), cost
    last = problem.size - 1
    found, cost = pulled(problem.backwards, [last - node for node in reversed(order)], target, least, steps)
    return tuple(last - node for node in reversed(found)), cost


def _flattening(problem: Problem, best: Solution, left: int) -> Iterator[tuple[Solution, int]]:
    order, cost = flattened(problem, best.order, best.bound, left)
    yield Solution(order, peak_of(problem, order), best.bound, "stretches"), cost


def _searching(problem: Problem, best: Solution, left: int) -> Iterator[tuple[Solution, int]]:
    """All orders, as far as the steps reach."""
    if problem.size > _MOST_SEARCHED:
        return
    found = search(problem, best.peak, best.bound, left)
    if found.order is None:
        yield Solution(best.order, best.peak, found.bound, best.found_by), found.steps
    else:
        yield Solution(found.order, found.bound, found.bound, "search"), found.steps
