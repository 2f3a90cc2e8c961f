"""What fills valleys, and what places one by one, on problems worked out by hand."""

from __future__ import annotations

import random

import pytest

from djinn_fx.solvers.packing.greedy import lowest_fit, orders
from djinn_fx.solvers.packing.problem import Problem, Solution
from djinn_fx.solvers.packing.sections import sections_of
from djinn_fx.solvers.packing.skyline import LOOKS, Look, fill_valleys
from djinn_fx.solvers.packing.validator import validate


def test_the_bound_leaves_out_the_rounding_of_the_uppermost() -> None:
    """7 is rounded to 8 where something lies on it; 6 need not be rounded when it lies on top, and wins more than 7."""
    cut = sections_of(Problem.of([(0, 2, 7, 4), (1, 3, 6, 4), (1, 2, 4, 4)]))
    assert cut.sizes == (2, 2, 1)
    assert cut.bound == 8 + 8 + 4 - 2


def test_lowest_fit_uses_the_lowest_gap_that_is_wide_enough() -> None:
    cut = sections_of(Problem.of([(0, 2, 3), (0, 9, 5), (0, 2, 2), (2, 9, 3)]))
    assert lowest_fit(cut, [0, 1, 2, 3]) == [0, 3, 8, 0]


def test_orders_begin_with_the_largest() -> None:
    cut = sections_of(Problem.of([(0, 9, 3), (0, 1, 5), (0, 4, 5)]))
    assert next(orders(cut)) == ("size", [2, 1, 0])


def test_a_valley_is_filled_by_the_longest_in_its_most_loaded_section() -> None:
    """On the longest buffer, time 4 to 6 is loaded most: who lives there comes before a longer one that does not."""
    cut = sections_of(Problem.of([(0, 9, 1), (0, 4, 2), (4, 6, 5)]))
    assert fill_valleys(cut, Look()) == [0, 1, 1]


def test_a_valley_that_nobody_fits_into_is_lifted() -> None:
    """The long one does not fit beside the first, whose end is not level with the ground."""
    cut = sections_of(Problem.of([(0, 2, 4), (1, 5, 3)]))
    assert sorted(fill_valleys(cut, Look())) in ([0, 3], [0, 4])


@pytest.mark.parametrize("look", LOOKS)
def test_valid_whatever_the_look(look: Look) -> None:
    chance = random.Random(5)
    rows = []
    for _ in range(400):
        lower = chance.randrange(1000)
        rows.append((lower, lower + chance.randint(1, 200), chance.randrange(1, 99), chance.choice((1, 4, 6))))
    problem = Problem.of(rows)
    cut = sections_of(problem)
    offsets = [offset * cut.unit for offset in fill_valleys(cut, look)]
    height = max(offset + row[2] for offset, row in zip(offsets, rows, strict=True))
    assert validate(problem, Solution(tuple(offsets), height, cut.bound, "a test")) == []
