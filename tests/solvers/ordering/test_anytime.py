"""Orders held against every order there is: never worse than the one given, the bound never above the lowest peak."""

from __future__ import annotations

import pytest

from djinn_fx.solvers.ordering.anytime import best_order, improvements
from djinn_fx.solvers.ordering.bounds import bound_at, forced_bound, own_bound
from djinn_fx.solvers.ordering.exact import search
from djinn_fx.solvers.ordering.problem import Problem, Storage, peak_of, profile_of
from djinn_fx.solvers.ordering.pulling import pulled
from djinn_fx.solvers.ordering.state import State
from djinn_fx.solvers.ordering.validator import check
from djinn_fx.solvers.ordering.windows import stretch
from tests.solvers.ordering.oracle import lowest_peak, some_problem

SEEDS = range(300)


def optimizer(count: int) -> Problem:
    """Gradients made one after another, each of them then used for a weight that is written at the very end."""
    before: list[tuple[int, ...]] = [(place - 1,) if place else () for place in range(count)]
    before += [(place,) for place in range(count)]
    before += [(count + place,) for place in range(count)]
    storages = [Storage(10, (place, count + place)) for place in range(count)]
    storages += [Storage(10, (count + place, 2 * count + place)) for place in range(count)]
    return Problem(tuple(before), tuple(storages), (0,) * 3 * count)


@pytest.mark.parametrize("seed", SEEDS)
def test_small_problems_are_solved_to_the_end(seed: int) -> None:
    problem = some_problem(seed)
    lowest, last = lowest_peak(problem), peak_of(problem, range(problem.size))
    for found in improvements(problem, steps=10**6):
        check(problem, found)
        assert found.bound <= lowest
        assert found.peak <= last
        last = found.peak
    assert found.optimal
    assert found.peak == lowest


@pytest.mark.parametrize("seed", SEEDS)
def test_no_bound_is_above_the_lowest_peak(seed: int) -> None:
    problem = some_problem(seed)
    assert own_bound(problem) <= forced_bound(problem) <= lowest_peak(problem)
    each = [bound_at(problem, node) for node in range(problem.size)]
    assert max([own_bound(problem), *each]) == forced_bound(problem)


def test_a_bound_counts_what_is_there_in_the_place_of_what_was_let_go() -> None:
    # Two that each make 3 of a given 2, and one that makes 5 at the end: whatever ran before it, 2 or 6 are there.
    storages = (
        Storage(2, (0, 1), given=True), Storage(3, (0,), kept=True), Storage(3, (1,), kept=True), Storage(5, (2,)),
    )  # fmt: skip
    problem = Problem(((), (), ()), storages, (0, 0, 4))
    assert own_bound(problem) == 9
    assert forced_bound(problem) == lowest_peak(problem) == 11


@pytest.mark.parametrize("seed", range(60))
def test_a_search_that_stops_early_tells_a_bound_that_holds(seed: int) -> None:
    problem = some_problem(seed)
    given, lowest = peak_of(problem, range(problem.size)), lowest_peak(problem)
    for steps in (0, 1, 3, 10):
        found = search(problem, given, own_bound(problem), steps)
        assert found.bound <= lowest
        assert found.order is None or peak_of(problem, found.order) == found.bound < given


def test_a_weight_is_written_as_soon_as_its_gradient_is_there() -> None:
    problem = optimizer(20)
    assert peak_of(problem, range(problem.size)) == 10 * 20 + 10
    found = check(problem, best_order(problem))
    assert found.optimal
    assert found.peak == 20


def test_backwards_what_takes_memory_comes_late() -> None:
    mirrored = optimizer(20).backwards
    found = check(mirrored, best_order(mirrored))
    assert found.peak == 20


def test_looking_ahead_stays_under_its_target() -> None:
    problem = optimizer(5)
    order, _ = pulled(problem, range(problem.size), 20, 0, 10**6)
    assert peak_of(problem, order) == 20
    order, _ = pulled(problem, range(problem.size), 10, 0, 1)  # no step left: as it was
    assert order == list(range(problem.size))


@pytest.mark.parametrize("seed", range(20))
def test_larger_ones_are_never_worse_than_given_and_always_the_same(seed: int) -> None:
    problem = some_problem(seed, 60)
    found = check(problem, best_order(problem))
    assert found.peak <= peak_of(problem, range(problem.size))
    assert best_order(problem) == found


@pytest.mark.parametrize("seed", range(40))
def test_a_stretch_has_the_levels_that_it_has_in_the_whole(seed: int) -> None:
    problem = some_problem(seed, 9)
    order = list(range(problem.size))
    for begin in order:
        for end in range(begin + 1, problem.size + 1):
            part = stretch(problem, order, begin, end)
            levels = [peak_of(stretch(problem, order, place, place + 1), (0,)) for place in range(begin, end)]
            assert peak_of(part, range(part.size)) == max(levels)


@pytest.mark.parametrize("seed", range(40))
def test_what_was_run_can_be_taken_back(seed: int) -> None:
    problem = some_problem(seed)
    state = State(problem)
    seen = []
    for node in range(problem.size):
        seen.append((state.live, list(state.left)))
        assert state.run(node) == profile_of(problem, range(problem.size))[node]
    for node in reversed(range(problem.size)):
        state.take_back(node)
        assert (state.live, state.left) == seen[node]


def test_of_no_nodes_the_peak_is_what_is_held() -> None:
    assert best_order(Problem((), (), (), held=7)).peak == 7


def test_the_clock_stops_it_too() -> None:
    assert len(list(improvements(optimizer(20), seconds=0.0))) <= 3
