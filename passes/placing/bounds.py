"""What no way of sharing a row out is below, by the row's own times."""

from __future__ import annotations

import itertools

import numpy as np

from djinn_fx.passes.placing.chain import Row


def bound_of(row: Row) -> float:
    """A lower bound on the figure of any answer, whichever devices it uses and however often it changes between them.

    For one call: every unit where it is fastest, and as many hand-overs as memory asks for at least. For throughput:
    the units shared out as if each could be cut anywhere. With weights ``w`` of the devices that add up to 1 the
    slowest device takes no less than ``sum over units of min over devices of w * seconds``: it takes no less than the
    mean of what all take by these weights. Weights by speed are the best ones where devices differ by a factor alone.
    """
    if not row.seconds:
        return 0.0
    seconds = np.array(row.seconds)
    for unit, fixed in enumerate(row.fixed):
        if fixed is not None:
            seconds[unit, [place for place in range(seconds.shape[1]) if place != fixed]] = np.inf
    if row.throughput:
        total = np.array(row.seconds).sum(axis=0)
        speed = 1 / total if (total > 0).all() else np.ones(len(total))
        weights = speed / speed.sum()
        return float(max((seconds * weights).min(axis=1).sum(), seconds.min(axis=1).max()))
    return float(seconds.min(axis=1).sum()) + _moves(row)


def _moves(row: Row) -> float:
    """Seconds of the hand-overs that cannot be done without: memory asks for so many devices."""
    held = sum(one.nbytes for one in row.held)
    rooms = np.sort(np.array(row.rooms))[::-1]
    needed = int(np.searchsorted(np.cumsum(rooms), held)) + 1
    crossing = sorted(row.crossing[1:])[: needed - 1]
    if needed < 2 or len(crossing) < needed - 1 or needed > len(rooms):
        return 0.0
    pairs = list(itertools.permutations(range(len(rooms)), 2))
    return sum(min(row.moving_s(*pair, nbytes) for pair in pairs) for nbytes in crossing)
