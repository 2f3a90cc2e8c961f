"""Answers are valid, get better, and are the best there is where everything can be tried."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from bench.placement.synthetic import transformer
from djinn_fx.errors import SolverError
from djinn_fx.solvers.placement.anytime import improvements, place
from djinn_fx.solvers.placement.problem import Aim, Device, Goal, Operator, Problem
from djinn_fx.solvers.placement.validator import check
from tests.examples import TIMES
from tests.solvers.placement.oracle import GOALS, best_figure, some_problem

STEPS = 1_024
FREE = Goal(Aim.LOAD, contiguous=False)


def asked(problem: Problem, goal: Goal, seed: int = 0) -> tuple[float, float]:
    """The figure and its bound; infinite both where there is said to be no placement."""
    try:
        found = place(problem, goal, steps=STEPS, seed=seed)
    except SolverError:
        return math.inf, math.inf
    check(problem, goal, found)
    return found.figure, found.bound


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
def test_equal_to_trying_every_placement(goal: Goal) -> None:
    for seed in range(100 * TIMES):
        problem = some_problem(seed)
        best = best_figure(problem, goal)
        figure, bound = asked(problem, goal, seed)
        assert figure == pytest.approx(best), seed
        assert bound == pytest.approx(best), seed  # and this is proved


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
def test_equal_to_trying_every_placement_of_a_dozen_operators(goal: Goal) -> None:
    for seed in range(1000, 1000 + 4 * TIMES):
        problem = some_problem(seed, most=12, devices=1)
        while len(problem.operators) < 10:
            seed += 100
            problem = some_problem(seed, most=12, devices=1)
        best = best_figure(problem, goal)
        assert asked(problem, goal, seed) == (pytest.approx(best), pytest.approx(best)), seed


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
@pytest.mark.parametrize("share", [1.0, 1.4, 0.9])
def test_the_fewest_devices_are_those_of_trying_every_placement(goal: Goal, share: float) -> None:
    for seed in range(25 * TIMES):
        problem = some_problem(seed)
        best = best_figure(problem, goal)
        if math.isfinite(best):
            within = Goal(Aim.DEVICES, goal.contiguous, best * share, goal.aim)
            few = best_figure(problem, within)
            assert asked(problem, within, seed) == (few, few), seed


def test_nothing_to_place_takes_nothing() -> None:
    for goal in GOALS.values():
        found = place(Problem((), (), (Device(0),)), goal)
        assert (found.devices, found.figure, found.optimal) == ((), 0.0, True)


def test_two_halves_on_two_devices_share_one_value() -> None:
    # 4 + 4 s of work; whoever cuts between them moves 1 byte at 2 bytes a second, out here and in there.
    operators = (Operator((4.0,), output_bytes=1.0), Operator((4.0,)))
    problem = Problem(operators, ((0, 1),), (Device(0, bytes_per_s=2.0),) * 2)
    found = check(problem, Goal(), place(problem, Goal()))
    assert (found.figure, found.optimal) == (4.5, True)
    assert len(set(found.devices)) == 2


def test_a_value_with_many_users_moves_once() -> None:
    operators = (Operator((6.0,), output_bytes=1.0), *(Operator((2.0,)) for _ in range(3)))
    problem = Problem(operators, ((0, 1), (0, 2), (0, 3)), (Device(0, bytes_per_s=1.0),) * 2)
    assert place(problem, Goal()).figure == 7.0  # 6 + 1 out; 6 + 1 in


def test_to_and_fro_may_be_better_than_forward_alone() -> None:
    # 3, 4, 3 in a row with free links: forward alone one device has 7 of it.
    operators = tuple(Operator((time,)) for time in (3.0, 4.0, 3.0))
    problem = Problem(operators, ((0, 1), (1, 2)), (Device(0), Device(0)))
    assert place(problem, Goal()).figure == 7.0
    assert place(problem, FREE).figure == 6.0


def test_answers_get_better_and_bounds_rise() -> None:
    problem = transformer(2, 4, 4)
    for goal in GOALS.values():
        found = list(improvements(problem, goal, steps=STEPS))
        for before, after in itertools.pairwise(found):
            assert after.figure < before.figure or (after.figure == before.figure and after.bound > before.bound)
        assert [check(problem, goal, one) for one in found] == found


def test_with_steps_only_the_seed_decides() -> None:
    problem = transformer(2, 4, 4)
    for goal in (FREE, GOALS["latency"]):
        assert place(problem, goal, steps=STEPS, seed=3) == place(problem, goal, steps=STEPS, seed=3)


@pytest.mark.parametrize("training", [False, True])
def test_larger_ones_keep_every_rule_under_tight_memory(training: bool) -> None:
    problem = transformer(2, 6, 5, training=training, memory=1.3)
    for goal in (Goal(), FREE):
        found = check(problem, goal, place(problem, goal, steps=STEPS))
        assert found.bound <= found.figure < sum(one.times_s[0] for one in problem.operators)


def test_moves_gain_on_a_cut_order() -> None:
    problem = transformer(2, 6, 5)
    found = list(improvements(problem, FREE, steps=4 * STEPS))
    assert found[-1].figure < found[0].figure
    assert found[-1].found_by == "moves of groups"


def test_an_operator_that_fits_nowhere_is_named() -> None:
    operators = (Operator((1.0,), 3.0), Operator((1.0,), 9.0))
    with pytest.raises(SolverError, match=r"operator 1\b.* 9 bytes.* 8"):
        place(Problem(operators, (), (Device(0, 8.0),)), Goal())


def test_co_located_operators_with_two_homes_are_named() -> None:
    operators = (Operator((1.0,), group=5, fixed=0), Operator((1.0,), group=5, fixed=1))
    with pytest.raises(SolverError, match="operator 0, with 1 co-located"):
        place(Problem(operators, (), (Device(0), Device(0))), Goal())


def test_too_little_memory_for_all_together_is_said() -> None:
    operators = tuple(Operator((1.0,), 5.0) for _ in range(3))
    problem = Problem(operators, (), (Device(0, 8.0), Device(0, 8.0)))
    for goal in GOALS.values():
        with pytest.raises(SolverError, match=r"there is no placement.* 15 bytes, devices have 16"):
            place(problem, goal)


def test_a_deadline_out_of_reach_names_the_nearest() -> None:
    problem = Problem((Operator((3.0,)), Operator((5.0,))), (), (Device(0), Device(0)))
    assert place(problem, Goal(Aim.DEVICES, deadline_s=5.0)).figure == 2
    assert place(problem, Goal(Aim.DEVICES, deadline_s=8.0)).figure == 1
    with pytest.raises(SolverError, match=r"takes 4\b"):
        place(problem, Goal(Aim.DEVICES, deadline_s=4.0))


def test_what_is_fixed_stays_and_others_follow() -> None:
    chance = random.Random(1)
    problem = transformer(1, 4, 3)
    pins = {place: chance.randrange(3) for place in (0, 9, 20)}
    pinned = [replace(one, fixed=pins.get(place)) for place, one in enumerate(problem.operators)]
    problem = replace(problem, operators=tuple(pinned))
    found = check(problem, FREE, place(problem, FREE, steps=STEPS))
    assert {place: found.devices[place] for place in pins} == pins
