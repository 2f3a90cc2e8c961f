"""Random small problems, and the lowest height by trying everything."""

from __future__ import annotations

import random
from itertools import permutations

from djinn_fx.solvers.packing.problem import Problem


def some_problem(seed: int, most: int = 6, alignments: tuple[int, ...] = (1,)) -> Problem:
    """Up to so many buffers, now and then without a size or equal to another one."""
    chance = random.Random(seed)
    rows = []
    for _ in range(chance.randint(0, most)):
        lower = chance.randint(0, 6)
        size = chance.choice((0, 1, 2, 3, 5, 8, chance.randint(1, 20)))
        rows.append((lower, lower + chance.randint(1, 4), size, chance.choice(alignments)))
    return Problem.of(rows)


def close_problem(seed: int, alignments: tuple[int, ...] = (1,)) -> Problem:
    """Five or six buffers that are often in each other's way, so that the largest load is often out of reach."""
    chance = random.Random(seed)
    rows = []
    for _ in range(chance.randint(5, 6)):
        lower = chance.randint(0, 5)
        rows.append((lower, lower + chance.randint(1, 3), chance.randint(1, 9), chance.choice(alignments)))
    return Problem.of(rows)


def lowest_height(problem: Problem) -> int:
    """Bytes of the lowest arena. In one that cannot be pushed down, somebody is the last of an order in which each
    lies as low as those before it allow, so trying every order is enough.
    """
    rows = [one for one in problem.buffers if one.size]
    best = problem.total_bytes
    for order in permutations(rows):
        placed: list[tuple[int, int, int, int]] = []
        for one in order:
            near = [(begin, end) for lower, upper, begin, end in placed if lower < one.upper and one.lower < upper]
            starts = [0, *(-(-end // one.alignment) * one.alignment for _, end in near)]
            free = [at for at in starts if all(at + one.size <= begin or at >= end for begin, end in near)]
            placed.append((one.lower, one.upper, min(free), min(free) + one.size))
        best = min(best, max((end for *_, end in placed), default=0))
    return best
