"""Random small problems, and the lowest peak by trying every order."""

from __future__ import annotations

import random
from collections.abc import Iterator

from djinn_fx.solvers.ordering.problem import Problem, Storage, peak_of


def some_problem(seed: int, most: int = 7) -> Problem:
    """Up to so many nodes: each reads what some earlier ones made, now and then writes it, or makes nothing."""
    chance = random.Random(seed)
    count = chance.randint(0, most)
    before: list[set[int]] = [set() for _ in range(count)]
    storages = []
    for maker in range(count):
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            later = [node for node in range(maker + 1, count) if chance.random() < 1.5 / (count - maker)]
            for node in later:
                before[node].add(maker)
            storages.append(Storage(chance.choice((0, 1, 2, 5, 9)), (maker, *later), False, chance.random() < 0.2))
    for _ in range(chance.randint(0, 2) if count else 0):
        touched = sorted(chance.sample(range(count), chance.randint(1, min(3, count))))
        storages.append(Storage(chance.randint(1, 9), tuple(touched), True, chance.random() < 0.3))
    if count > 1 and chance.random() < 0.3:
        first, second = sorted(chance.sample(range(count), 2))
        before[second].add(first)
    workspace = tuple(chance.choice((0, 0, 0, 4)) for _ in range(count))
    return Problem(tuple(map(tuple, map(sorted, before))), tuple(storages), workspace, chance.choice((0, 3)))


def all_orders(problem: Problem, ran: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every order that keeps the dependencies."""
    if len(ran) == problem.size:
        yield ran
    for node in range(problem.size):
        if node not in ran and all(one in ran for one in problem.before[node]):
            yield from all_orders(problem, (*ran, node))


def lowest_peak(problem: Problem) -> int:
    """Of all orders."""
    return min(peak_of(problem, order) for order in all_orders(problem))
