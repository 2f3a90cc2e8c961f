"""What is no problem is refused; the same with time reversed has the same peak."""

from __future__ import annotations

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.ordering.problem import Problem, Storage, peak_of, profile_of
from tests.solvers.ordering.oracle import all_orders, some_problem

#: Two nodes that each make a value, a third that reads both and makes one that is kept.
JOIN = Problem(
    ((), (), (0, 1)), (Storage(4, (0, 2)), Storage(2, (1, 2)), Storage(1, (2,), kept=True)), (8, 0, 0), held=100
)


def test_the_profile_is_counted_by_hand() -> None:
    assert profile_of(JOIN, (0, 1, 2)) == [112, 106, 107]
    assert profile_of(JOIN, (1, 0, 2)) == [102, 114, 107]
    assert peak_of(JOIN, (0, 1, 2)) == 112


def test_what_is_given_is_there_until_it_was_last_touched() -> None:
    problem = Problem(((), ()), (Storage(5, (0,), given=True), Storage(3, (1,), given=True, kept=True)), (0, 0))
    assert profile_of(problem, (0, 1)) == [8, 3]
    assert profile_of(problem, (1, 0)) == [8, 8]


@pytest.mark.parametrize("seed", range(40))
def test_backwards_every_order_has_the_same_peak(seed: int) -> None:
    problem = some_problem(seed, 5)
    last = problem.size - 1
    for order in all_orders(problem):
        mirrored = [last - node for node in reversed(order)]
        assert profile_of(problem.backwards, mirrored) == profile_of(problem, order)[::-1]


@pytest.mark.parametrize(
    ("before", "storages", "workspace", "held"),
    [
        (((1,), ()), (), (0, 0), 0),
        (((0,),), (), (0,), 0),
        (((),), (), (), 0),
        (((),), (), (-1,), 0),
        (((),), (), (0,), -1),
        (((),), (Storage(-1, (0,)),), (0,), 0),
        (((),), (Storage(1, ()),), (0,), 0),
        (((),), (Storage(1, (0, 0)),), (0,), 0),
        (((),), (Storage(1, (1,)),), (0,), 0),
    ],
    ids=["later", "itself", "count", "workspace", "held", "size", "untouched", "twice", "stranger"],
)
def test_what_is_no_problem_is_refused(
    before: tuple[tuple[int, ...], ...], storages: tuple[Storage, ...], workspace: tuple[int, ...], held: int
) -> None:
    with pytest.raises(SolverError, match="cannot be ordered"):
        Problem(before, storages, workspace, held)
