"""What CP-SAT proves is the best of all placements, and the moves come to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.exhaustive import every_plan, least_load
from djinn_fx.solvers.deployment.placing.exact import available, solve
from djinn_fx.solvers.deployment.placing.greedy import first_room, grown
from djinn_fx.solvers.deployment.placing.loads import split
from djinn_fx.solvers.deployment.placing.moves import polished
from djinn_fx.solvers.deployment.search import surrogate
from djinn_fx.solvers.deployment.validator import Rule, validate
from tests.solvers.deployment.oracle import some_problem

needs_cp_sat = pytest.mark.skipif(not available(), reason="CP-SAT (ortools, extra `solve`) is not installed")


@needs_cp_sat
@pytest.mark.parametrize("seed", range(25))
def test_one_copy_each_is_proved(seed: int) -> None:
    problem = replace(some_problem(seed, tiny=True, requests=8), copies=1)
    try:
        best = least_load(problem)
    except SolverError:
        pytest.skip("too many placements to look at each")
    found = solve(problem, 5.0, workers=1)
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    assert validate(problem, found.plan) == []
    assert found.load == pytest.approx(best[0], rel=1e-4, abs=1e-3)
    assert found.bound <= best[0] * (1 + 1e-4) + 1e-3
    crossings = min(
        surrogate(problem, one.replicas)[1]
        for one in every_plan(problem, copies=1)
        if split(problem, one.replicas).most <= best[0] * (1 + 1e-6) + 1e-6
    )
    assert found.crossings == pytest.approx(crossings, abs=0.05)


@needs_cp_sat
@pytest.mark.parametrize("seed", range(6))
def test_many_copies_are_no_worse_than_the_moves(seed: int) -> None:
    problem = some_problem(seed, tiny=True, requests=8)
    room = first_room(problem)
    found = solve(problem, 3.0, workers=1)
    assert (found is None) == (room is None)
    if found is not None and room is not None:
        assert validate(problem, found.plan) == []
        moved = split(problem, polished(grown(room)).sorted).most
        assert found.bound <= moved * (1 + 1e-3) + 1e-3


@pytest.mark.parametrize("seed", range(30))
def test_moves_come_near_the_least_load(seed: int) -> None:
    problem = replace(some_problem(seed, tiny=True, requests=8), copies=1)
    room = first_room(problem)
    try:
        best = least_load(problem)
    except SolverError:
        pytest.skip("too many placements to look at each")
    assert (room is None) == (best is None)
    if room is not None and best is not None:
        found = polished(room)
        assert set(found.copies) <= {0, 1}
        assert split(problem, found.sorted).most <= best[0] * 1.001 + 1e-9


def test_more_copies_than_asked_are_a_broken_rule() -> None:
    problem = some_problem(1)
    plan = next(iter(every_plan(some_problem(1, tiny=True), copies=2)), None)
    tiny = replace(some_problem(1, tiny=True), copies=1)
    assert problem.copies is None
    many = [one for one in every_plan(some_problem(1, tiny=True), copies=2) if len(one.replicas) > len(tiny.used)]
    assert plan is not None
    assert many
    assert Rule.COPIES in {one.rule for one in validate(tiny, many[0])}
