"""Every rule by name, broken once."""

from __future__ import annotations

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.packing.problem import Problem, Solution
from djinn_fx.solvers.packing.validator import Rule, check, validate
from djinn_fx.solvers.rules import Broken

#: The first two share time 1, the third comes after both.
PROBLEM = Problem.of([(0, 2, 4, 4), (1, 3, 6), (3, 4, 6)])


def broken(offsets: tuple[int, ...], height: int, bound: int = 0) -> list[Broken]:
    return validate(PROBLEM, Solution(offsets, height, bound, "a test"))


def test_a_valid_solution_breaks_nothing() -> None:
    assert broken((0, 4, 0), 10, 10) == []
    assert broken((8, 0, 6), 12) == []


@pytest.mark.parametrize(
    ("offsets", "height", "bound", "rule", "buffers"),
    [
        ((0, 4), 10, 0, Rule.COUNT, ()),
        ((0, 4, -6), 10, 0, Rule.RANGE, (2,)),
        ((6, 0, 0), 10, 0, Rule.ALIGNMENT, (0,)),
        ((0, 3, 0), 9, 0, Rule.OVERLAP, (0, 1)),
        ((4, 0, 0), 8, 0, Rule.OVERLAP, (0, 1)),
        ((0, 4, 0), 9, 0, Rule.HEIGHT, ()),
        ((0, 4, 0), 11, 0, Rule.HEIGHT, ()),
        ((0, 4, 0), 10, 11, Rule.BOUND, ()),
    ],
)
def test_the_broken_rule_is_named(
    offsets: tuple[int, ...], height: int, bound: int, rule: Rule, buffers: tuple[int, ...]
) -> None:
    assert [(one.rule, one.places) for one in broken(offsets, height, bound)] == [(rule, buffers)]


def test_one_that_ends_where_another_begins_may_lie_in_its_place() -> None:
    assert validate(Problem.of([(0, 5, 3), (5, 9, 3)]), Solution((0, 0), 3, 3, "a test")) == []


def test_no_bytes_overlap_with_nothing() -> None:
    assert validate(Problem.of([(0, 5, 3), (0, 5, 0)]), Solution((0, 1), 3, 3, "a test")) == []


def test_every_pair_that_overlaps_is_named() -> None:
    problem = Problem.of([(0, 9, 2), (0, 9, 2), (8, 9, 2)])
    found = validate(problem, Solution((0, 0, 1), 3, 0, "a test"))
    assert sorted(one.places for one in found) == [(0, 1), (0, 2), (1, 2)]


def test_check_raises_with_the_rule_and_the_buffers() -> None:
    fine = Solution((0, 4, 0), 10, 10, "a test")
    assert check(PROBLEM, fine) is fine
    with pytest.raises(SolverError, match=r"a test .*buffers 0, 1: .*apart"):
        check(PROBLEM, Solution((0, 3, 0), 9, 0, "a test"))
