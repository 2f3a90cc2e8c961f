"""Schedules keep the rules, and are near the earliest end where every order can be tried."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.scheduling.anytime import improvements, schedule
from djinn_fx.solvers.scheduling.bounds import bounds_of
from djinn_fx.solvers.scheduling.problem import Link, Move, Problem, Schedule, Task
from djinn_fx.solvers.scheduling.validator import Rule, check, validate
from tests.examples import TIMES
from tests.solvers.scheduling.oracle import earliest_end, some_problem

STEPS = 300
BOTH = (Link(((0, 1),), 1.0, 0.5), Link(((1, 0),), 1.0, 0.5))


def test_near_to_trying_every_order() -> None:
    """Transfers of one task's inputs go in the order in which they are made, so that a few ends are out of reach."""
    early, count = 0, 120 * TIMES
    for seed in range(count):
        problem = some_problem(seed)
        earliest = earliest_end(problem)
        found = [check(problem, one) for one in improvements(problem, steps=STEPS, seed=seed)]
        assert bounds_of(problem).best_s <= earliest + 1e-9, seed
        assert earliest - 1e-9 <= found[-1].makespan_s <= 1.2 * earliest + 1e-9, seed
        assert all(after.makespan_s < before.makespan_s for before, after in itertools.pairwise(found)), seed
        early += found[-1].makespan_s <= earliest + 1e-9
    assert early >= 0.95 * count


def test_bounds_by_hand() -> None:
    # A way of 2 + 3 s, or 2 s, half a second and 4 bytes, and 1 s; three tasks' work over two devices.
    problem = Problem((Task((2.0, 9.0), 4.0), Task((3.0, 1.0)), Task((6.0, 6.0))), ((0, 1),), 2, BOTH)
    assert bounds_of(problem).critical_path_s == 6.0
    assert bounds_of(replace(problem, tasks=problem.tasks[:2])).critical_path_s == 5.0
    assert bounds_of(problem).area_s == (2.0 + 1.0 + 6.0) / 2


def test_transfers_overlap_compute() -> None:
    """Device 0 makes a value for device 1 and goes on while it moves: 2, then 5 beside 3.5 of moving and 1.5."""
    here, there = (5.0, float("inf")), (float("inf"), 1.5)
    problem = Problem((Task((2.0, 9.0), 3.0), Task(here), Task(there)), ((0, 1), (0, 2)), 2, BOTH)
    found = check(problem, schedule(problem, steps=STEPS))
    assert found.makespan_s == found.bound_s == 7.0
    assert found.moves == (Move(0, 0, 1, 2.0, 5.5),)


def test_a_link_moves_one_value_at_a_time_and_a_bus_both_ways() -> None:
    here, there = (1.0, float("inf")), (float("inf"), 1.0)
    tasks = (Task(here, 4.0), Task(there, 4.0), Task(there), Task(here))
    edges = ((0, 2), (1, 3))
    assert schedule(Problem(tasks, edges, 2, BOTH)).makespan_s == 1.0 + 4.5 + 1.0
    bus = (Link(((0, 1), (1, 0)), 1.0, 0.5),)
    assert schedule(Problem(tasks, edges, 2, bus)).makespan_s == 1.0 + 4.5 + 4.5 + 1.0


def test_looking_ahead_avoids_a_device_that_nobody_else_can_use() -> None:
    """The first task is a little faster on device 0; all that follows runs on device 1 alone, behind a slow link."""
    follows = Task((float("inf"), 1.0))
    problem = Problem((Task((1.0, 2.0), 10.0), follows, follows), ((0, 1), (1, 2)), 2, BOTH)
    first = next(improvements(problem))
    assert first.found_by == "list by upward rank, looking ahead"
    assert first.makespan_s == 4.0
    assert first.gap == 0.0


def test_what_cannot_get_where_it_is_used_is_said() -> None:
    here, there = (1.0, float("inf")), (float("inf"), 1.0)
    with pytest.raises(SolverError, match="cannot get"):
        schedule(Problem((Task(here), Task(there)), ((0, 1),), 2, ()))


def test_without_tasks_nothing_takes_time() -> None:
    assert schedule(Problem((), (), 1)).makespan_s == 0.0


def test_with_steps_only_the_seed_decides() -> None:
    problem = some_problem(4, most=12, devices=3)
    assert schedule(problem, steps=STEPS, seed=7) == schedule(problem, steps=STEPS, seed=7)


PROBLEM = Problem((Task((2.0, 2.0), 1.0), Task((3.0, 3.0)), Task((1.0, float("inf")))), ((0, 1),), 2, BOTH)
GOOD = Schedule((0, 1, 0), (0.0, 3.5, 2.0), (2.0, 6.5, 3.0), (Move(0, 0, 1, 2.0, 3.5),), 5.0, "a test")


def test_a_valid_schedule_breaks_nothing() -> None:
    assert validate(PROBLEM, GOOD) == []
    assert check(PROBLEM, GOOD) is GOOD


@pytest.mark.parametrize(
    ("changes", "rule", "tasks"),
    [
        ({"devices": (0, 1)}, Rule.COUNT, ()),
        ({"devices": (0, 1, 1)}, Rule.SUPPORT, (2,)),
        ({"ends_s": (2.0, 6.5, 3.5)}, Rule.LENGTH, (2,)),
        ({"starts_s": (0.0, 3.5, 1.0), "ends_s": (2.0, 6.5, 2.0)}, Rule.DEVICE, (0, 2)),
        ({"moves": ()}, Rule.INPUTS, (1,)),
        ({"moves": (Move(0, 0, 1, 1.0, 2.5),)}, Rule.INPUTS, (0,)),
        ({"moves": (Move(0, 0, 1, 2.0, 3.0),)}, Rule.LENGTH, (0,)),
        ({"moves": (*GOOD.moves, Move(0, 1, 0, 2.0, 3.5))}, Rule.WAY, (0,)),
        ({"moves": (*GOOD.moves, Move(0, 0, 1, 3.5, 5.0))}, Rule.ONCE, (0,)),
        ({"moves": (*GOOD.moves, Move(2, 0, 1, 3.0, 3.5))}, Rule.LINK, (0, 2)),
        ({"bound_s": 7.0}, Rule.BOUND, ()),
    ],
)
def test_the_broken_rule_is_named(changes: dict[str, object], rule: Rule, tasks: tuple[int, ...]) -> None:
    broken = validate(PROBLEM, replace(GOOD, **changes))  # type: ignore[arg-type]
    assert (rule, tasks) in [(one.rule, one.places) for one in broken]
    with pytest.raises(SolverError, match="a test breaks a rule"):
        check(PROBLEM, replace(GOOD, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (((Task((1.0,)),), ((0, 1),), 1, ()), "from task 0 to 1"),
        (((Task((1.0,)), Task((1.0,))), ((0, 1), (1, 0)), 1, ()), "circle"),
        (((Task((1.0,)),), (), 2, ()), "task 0 is none for 2 devices"),
        (((Task((float("inf"),)),), (), 1, ()), "on no device"),
        (((Task((1.0,)),), (), 1, (Link(((0, 1),)),)), "link 0"),
    ],
)
def test_what_is_no_problem_is_said(
    parts: tuple[tuple[Task, ...], tuple[tuple[int, int], ...], int, tuple[Link, ...]], said: str
) -> None:
    with pytest.raises(SolverError, match=said):
        Problem(*parts)
