"""Every rule by name, broken once."""

from __future__ import annotations

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.ordering.problem import Solution
from djinn_fx.solvers.ordering.validator import Rule, check, validate
from djinn_fx.solvers.rules import Broken
from tests.solvers.ordering.test_problem import JOIN


def broken(order: tuple[int, ...], peak: int, bound: int = 0) -> list[Broken]:
    return validate(JOIN, Solution(order, peak, bound, "a test"))


def test_a_valid_solution_breaks_nothing() -> None:
    assert broken((0, 1, 2), 112, 112) == []
    assert broken((1, 0, 2), 114) == []


@pytest.mark.parametrize(
    ("order", "peak", "bound", "rule", "nodes"),
    [
        ((0, 1), 0, 0, Rule.COUNT, (2,)),
        ((0, 1, 1), 0, 0, Rule.COUNT, (1, 2)),
        ((0, 2, 1), 112, 0, Rule.DEPENDENCY, (1, 2)),
        ((0, 1, 2), 111, 0, Rule.PEAK, ()),
        ((0, 1, 2), 112, 113, Rule.BOUND, ()),
    ],
)
def test_the_broken_rule_is_named(
    order: tuple[int, ...], peak: int, bound: int, rule: Rule, nodes: tuple[int, ...]
) -> None:
    assert (rule, nodes) in [(one.rule, one.places) for one in broken(order, peak, bound)]


def test_check_raises_with_the_rule_and_the_nodes() -> None:
    fine = Solution((0, 1, 2), 112, 112, "a test")
    assert check(JOIN, fine) is fine
    with pytest.raises(SolverError, match=r"a test .*nodes 1, 2: .*after"):
        check(JOIN, Solution((0, 2, 1), 112, 0, "a test"))
