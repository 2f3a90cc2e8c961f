"""Bytes below which no order's peak can be.

While a node runs, what it touches is there. So is every storage of which something must have run before, or is given,
and something has to run later, or is kept: this holds in whatever order. Of some others it can be said that one or the
other is there: where a storage has begun by then, it is there still, or all that touch it have run, and what these
made and is needed later is there in its place. The same sums at each end: what is given, and what is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from djinn_fx.solvers.ordering.problem import Problem

#: Nodes up to which it is asked who must run before whom: the table has a bit for each pair.
MOST_FOR_PAIRS = 4_000


def own_bound(problem: Problem) -> int:
    """From what single nodes touch: quick, and often what the order given needs too."""
    always = [
        sum(one.nbytes for one in problem.storages if one.given),
        sum(s.nbytes for s in problem.storages if s.kept),
    ]
    mine = list(problem.workspace)
    for storage in problem.storages:
        for node in storage.touched:
            mine[node] += storage.nbytes
    return problem.held + max((*mine, *always) if problem.size else (0,))


def bound_at(problem: Problem, node: int) -> int:
    """From what must be there while this node runs: :func:`forced_bound` of one node alone, in little time."""
    earlier, later = _reachable(problem.before, node), _reachable(problem.after, node)
    begun = [one.given or not earlier.isdisjoint(one.touched) for one in problem.storages]
    needed = [one.kept or not later.isdisjoint(one.touched) for one in problem.storages]
    level = problem.held + problem.workspace[node]
    level += sum(
        s.nbytes
        for s, is_begun, is_needed in zip(problem.storages, begun, needed, strict=True)
        if is_begun and is_needed
    )
    for place, made in _in_the_place_of(problem).items():
        if begun[place] and not needed[place]:
            others = sum(problem.storages[one].nbytes for one in made if needed[one] and not begun[one])
            level += min(others, problem.storages[place].nbytes)
    return level


def forced_bound(problem: Problem) -> int:
    """From what must be there while a node runs, whatever the order."""
    if not problem.size or problem.size > MOST_FOR_PAIRS:
        return own_bound(problem)
    begun, needed = _begun(problem), _begun(problem.backwards)[:, ::-1]
    level = np.array(problem.workspace, dtype=np.int64)
    for place, storage in enumerate(problem.storages):
        level += storage.nbytes * (begun[place] & needed[place])
    for place, made in _in_the_place_of(problem).items():
        others = sum(problem.storages[one].nbytes * (needed[one] & ~begun[one]) for one in made)
        level += np.minimum(others, problem.storages[place].nbytes) * (begun[place] & ~needed[place])
    return max(own_bound(problem), problem.held + int(level.max()))


def _reachable(steps: tuple[tuple[int, ...], ...], node: int) -> set[int]:
    """The node, and all that these steps lead to from it."""
    found, waiting = {node}, [node]
    while waiting:
        new = [one for one in steps[waiting.pop()] if one not in found]
        found.update(new)
        waiting += new
    return found


def _begun(problem: Problem) -> NDArray[np.bool_]:
    """For each storage and node whether the storage must be there from before or with the node."""
    later = _reached(problem.backwards.before)[::-1, ::-1]  # a node, and those that must run after it
    begun = np.zeros((len(problem.storages), problem.size), dtype=np.bool_)
    for place, storage in enumerate(problem.storages):
        begun[place] = True if storage.given else later[list(storage.touched)].any(axis=0)
    return begun


def _in_the_place_of(problem: Problem) -> dict[int, list[int]]:
    """For a storage those that its touching nodes make; each stands for one storage only, the largest."""
    found: dict[int, list[int]] = {}
    for place, storage in enumerate(problem.storages):
        if storage.given:
            continue
        maker = min(storage.touched)  # in the order given; another one that touches it has it begun just as well
        read = [one for one in problem.touches[maker] if one != place]
        if read:
            largest = max(read, key=lambda one: problem.storages[one].nbytes)
            found.setdefault(largest, []).append(place)
    return found


def _reached(before: tuple[tuple[int, ...], ...]) -> NDArray[np.bool_]:
    """Row by row, for each node whether it is the row's node or must run before that."""
    found = np.zeros((len(before), len(before)), dtype=np.bool_)
    for node, waits in enumerate(before):
        row = found[node]
        for one in waits:
            row |= found[one]
        row[node] = True
    return found
