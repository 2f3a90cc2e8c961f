"""Answers are valid, get better, and are the best there is where everything can be tried."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from djinn_fx.solvers.packing.anytime import improvements, pack
from djinn_fx.solvers.packing.greedy import lowest_fit, orders
from djinn_fx.solvers.packing.problem import Problem
from djinn_fx.solvers.packing.sections import sections_of
from djinn_fx.solvers.packing.validator import check
from tests.examples import TIMES
from tests.solvers.packing.oracle import close_problem, lowest_height, some_problem

STEPS = 20_000


def test_nothing_needs_nothing() -> None:
    assert pack(Problem(())).height == 0
    found = pack(Problem.of([(0, 3, 0), (1, 2, 0)]))
    assert (found.offsets, found.height, found.optimal) == ((0, 0), 0, True)


def test_one_buffer_lies_at_the_bottom() -> None:
    found = pack(Problem.of([(7, 9, 13, 8)]))
    assert (found.offsets, found.height, found.bound) == ((0,), 13, 13)


def test_equal_lifetimes_are_stacked() -> None:
    found = pack(Problem.of([(2, 5, size) for size in (3, 1, 4, 1, 5, 9, 2, 6)]))
    assert found.height == 31
    assert found.optimal


def test_sizes_beyond_what_a_float_holds() -> None:
    huge = 2**53 + 1
    problem = Problem.of([(0, 2, huge), (1, 3, huge + 2), (2, 4, huge)])
    found = check(problem, pack(problem))
    assert found.height == 2 * huge + 2
    assert found.optimal


def test_sizes_beyond_a_machine_word() -> None:
    rows = [(0, 2, 2**70 + 1), (1, 3, 2**70 + 7, 2), (2, 4, 2**65 + 1), (0, 4, 3)]
    found = check(Problem.of(rows), pack(Problem.of(rows)))
    assert found.bound <= found.height <= 2**71 + 13


@pytest.mark.parametrize("alignments", [(1,), (4,), (1, 4), (2, 3, 8)])
def test_equal_to_trying_every_order(alignments: tuple[int, ...]) -> None:
    for seed in range(120 * TIMES):
        problem = some_problem(seed, alignments=alignments)
        found = check(problem, pack(problem, steps=STEPS, seed=seed))
        lowest = lowest_height(problem)
        assert found.bound <= lowest == found.height, seed


@pytest.mark.parametrize("alignments", [(1,), (4,), (2, 3)])
def test_equal_where_buffers_are_in_each_others_way_and_proved(alignments: tuple[int, ...]) -> None:
    for seed in range(60 * TIMES):
        problem = close_problem(seed, alignments)
        found = check(problem, pack(problem, steps=STEPS, seed=seed))
        assert found.bound == found.height == lowest_height(problem), seed


def test_a_largest_load_that_is_out_of_reach_is_proved_to_be() -> None:
    """14 is the largest load. That no arena of 14 will do was looked up with another solver (OR-Tools' CP-SAT 9.15)."""
    rows = [
        (6, 8, 1),
        (0, 1, 6),
        (0, 3, 5),
        (6, 8, 2),
        (2, 6, 4),
        (6, 10, 5),
        (2, 5, 4),
        (4, 6, 4),
        (4, 5, 1),
        (5, 8, 6),
    ]
    problem = Problem.of(rows)
    assert sections_of(problem).bound == 14
    found = check(problem, pack(problem, steps=STEPS))
    assert (found.height, found.bound) == (15, 15)


def test_times_at_which_nobody_lives() -> None:
    problem = Problem.of([(0, 2, 4), (1, 3, 4), (10, 12, 5), (11, 13, 3), (20, 21, 8)])
    cut = sections_of(problem)
    assert (cut.count, cut.first, cut.last) == (7, (0, 1, 3, 4, 6), (2, 3, 5, 6, 7))
    assert check(problem, pack(problem)).height == 8


def test_alignment_is_kept_in_larger_problems() -> None:
    for seed, alignments in itertools.product(range(5), ((64,), (1, 16, 512), (6, 4))):
        problem = some_problem(seed, most=60, alignments=alignments)
        check(problem, pack(problem, steps=300, seed=seed))


def test_each_answer_is_better_than_the_one_before_and_the_first_is_greedys() -> None:
    for seed in range(20):
        problem = some_problem(1000 + seed, most=80)
        found = [check(problem, one) for one in improvements(problem, steps=2000, seed=seed)]
        cut = sections_of(problem)
        _, by_size = next(orders(cut), ("", []))
        offsets = lowest_fit(cut, by_size)
        greedy = max((at + size for at, size in zip(offsets, cut.sizes, strict=True)), default=0) * cut.unit
        assert found[0].height <= greedy
        for one, other in itertools.pairwise(found):
            assert (-other.height, other.bound) > (-one.height, one.bound)
            assert other.height <= one.height
            assert other.bound >= one.bound


def test_the_same_seed_and_steps_give_the_same_answer() -> None:
    problem = some_problem(77, most=60)
    assert pack(problem, steps=500, seed=3) == pack(problem, steps=500, seed=3)


def test_time_that_is_over_still_gives_an_answer() -> None:
    problem = some_problem(5, most=60)
    first, *more = improvements(problem, seconds=0.0)
    assert not more
    assert check(problem, replace(first)).found_by == "greedy by size"
