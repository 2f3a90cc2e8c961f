"""An order made better a stretch at a time: what lies around its peak is ordered as well as can be."""

from __future__ import annotations

from collections.abc import Sequence

from djinn_fx.solvers.ordering.bounds import forced_bound
from djinn_fx.solvers.ordering.exact import search
from djinn_fx.solvers.ordering.problem import Problem, Storage, peak_of, profile_of

#: How many nodes a stretch has, and how many steps a search takes in it.
LENGTHS, STEPS = (16, 32, 64), 2_000


def stretch(problem: Problem, order: Sequence[int], begin: int, end: int) -> Problem:
    """The nodes at some places of an order as a problem of their own; they are numbered by their places."""
    position = {node: place for place, node in enumerate(order)}
    before = tuple(
        tuple(position[one] - begin for one in problem.before[node] if position[one] >= begin)
        for node in order[begin:end]
    )
    held, storages = problem.held, []
    for one in problem.storages:
        places = [position[node] for node in one.touched]
        given, kept = one.given or min(places) < begin, one.kept or max(places) >= end
        inside = tuple(place - begin for place in places if begin <= place < end)
        if inside:
            storages.append(Storage(one.nbytes, inside, given, kept))
        elif given and kept:
            held += one.nbytes
    return Problem(before, tuple(storages), tuple(problem.workspace[node] for node in order[begin:end]), held)


def flattened(problem: Problem, order: Sequence[int], target: int, steps: int) -> tuple[tuple[int, ...], int]:
    """An order whose highest stretches are as low as can be; ends at the target, or where nothing is gained.

    Args:
        problem: the nodes.
        order: the one at hand.
        target: a peak that is low enough, in bytes.
        steps: nodes to try, some more or less.

    Returns:
        The order, and how many nodes were tried.
    """
    best, looked = list(order), 0
    while looked < steps:
        profile = profile_of(problem, best)
        peak = max(profile, default=0)
        lower, cost = _lower(problem, best, profile.index(peak), target) if peak > target else (False, 0)
        looked += cost
        if not lower:
            break
    return tuple(best), looked


def _lower(problem: Problem, order: list[int], place: int, target: int) -> tuple[bool, int]:
    """Order what is around a place anew, a longer stretch each time, until its peak is lower."""
    looked = 0
    for length in LENGTHS:
        begin = max(0, place - length // 2)
        end = min(len(order), begin + length)
        part = stretch(problem, order, begin, end)
        peak, bound = peak_of(part, range(part.size)), max(target, forced_bound(part))
        found = search(part, peak, bound, STEPS)
        looked += part.size + found.steps
        if found.order is not None:
            order[begin:end] = [order[begin + one] for one in found.order]
            return True, looked
    return False, looked
