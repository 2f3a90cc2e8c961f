"""Problems that are none are refused with one clear error; what a solution says of itself."""

from __future__ import annotations

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.packing.problem import Buffer, Problem, Solution, height_of


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ((0, 1, -1), "size"),
        ((3, 3, 8), "upper"),
        ((4, 3, 8), "upper"),
        ((0, 1, 8, 0), "alignment"),
        ((0, 1, 8.0), "whole numbers"),
        ((0, 1, True), "whole numbers"),
    ],
)
def test_a_buffer_that_is_none_is_named(row: tuple[int, ...], word: str) -> None:
    with pytest.raises(SolverError, match=f"buffer 1 .*{word}"):
        Problem.of([(0, 2, 4), row])


def test_times_may_be_negative_and_sizes_zero() -> None:
    problem = Problem.of([(-5, 3, 0), (-2, 9, 7)])
    assert problem.buffers == (Buffer(-5, 3, 0), Buffer(-2, 9, 7))


def test_height_leaves_out_buffers_without_a_size() -> None:
    assert height_of(Problem.of([(0, 1, 0), (0, 1, 3)]), [100, 2]) == 5
    assert height_of(Problem(()), []) == 0


def test_gap_is_a_share_of_the_bound() -> None:
    above, exact, nothing = (Solution((), height, bound, "test") for height, bound in ((5, 4), (4, 4), (0, 0)))
    assert above.gap == 0.25
    assert not above.optimal
    assert exact.gap == 0.0
    assert exact.optimal
    assert nothing.gap == 0.0
    assert nothing.optimal
