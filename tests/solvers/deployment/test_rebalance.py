"""From an old plan to a new one: every step keeps memory and a copy of each model, and no load is needless."""

from __future__ import annotations

import pytest

from djinn_fx.solvers.deployment.problem import Cluster, Model, Plan, Problem, Replica, Workflow
from djinn_fx.solvers.deployment.rebalance import Rebalanced, Step, in_order, rebalance
from djinn_fx.solvers.deployment.search import search
from djinn_fx.solvers.deployment.validator import Rule, validate
from tests.solvers.deployment.oracle import some_plan, some_problem, traffic_of


def follow(problem: Problem, old: Plan, steps: tuple[tuple[Step, Replica], ...]) -> set[Replica]:
    """Take the steps, looking at each; which copies are there in the end."""
    there = set(old.replicas)
    for step, one in steps:
        if step is Step.LOAD:
            assert one not in there
            there.add(one)
        else:
            there.remove(one)
        broken = {row.rule for row in validate(problem, Plan(tuple(sorted(there))))}
        assert broken <= {Rule.COPIES}
    return there


@pytest.mark.parametrize("seed", range(25))
def test_steps_lead_to_the_plan_and_stop_no_model(seed: int) -> None:
    problem = some_problem(seed, requests=30)
    old = some_plan(problem, seed + 1)
    if old is None:
        pytest.skip("no room for a plan")
    found = rebalance(problem, old, effort=3_000)
    assert found is not None
    assert follow(problem, old, found.steps) == set(found.plan.replicas)
    if found.steps:
        assert found.after.measures.makespan <= found.anew.measures.makespan * 1.02 + 1e-9
    assert found.after.measures.makespan <= found.before.measures.makespan + 1e-9


def test_a_plan_that_is_as_good_as_a_new_one_stays() -> None:
    problem = some_problem(3, requests=30)
    best = search(problem, effort=3_000)
    assert best is not None
    found = rebalance(problem, best.best.plan, effort=3_000)
    assert isinstance(found, Rebalanced)
    assert found.loads == 0


def two_models(memory: int, devices: int) -> Problem:
    workflows = (Workflow((0, 1), ((), (0,))),)
    return Problem(
        (Model(2), Model(2)),
        workflows,
        Cluster.uniform(devices, devices, memory),
        traffic_of(workflows, [(0.0, 0)], [1.0, 1.0]),
    )


def test_copies_in_each_others_way_change_places_by_a_third() -> None:
    old, new = (Replica(0, 0), Replica(1, 1)), (Replica(0, 1), Replica(1, 0))
    problem = two_models(2, 3)
    steps = in_order(problem, old, new)
    assert steps is not None
    assert follow(problem, Plan(old), tuple(steps)) == set(new)
    assert in_order(two_models(2, 2), old, new) is None


def test_one_model_more_is_one_load() -> None:
    """Now the second model has three times the first one's work: copies of it are loaded, nothing else moves."""
    workflows = (Workflow((0,), ((),)), Workflow((1,), ((),)))
    rows = [(0.0, n % 2) for n in range(40)]
    traffic = traffic_of(workflows, rows, [1.0 + 2.0 * (n % 2) for n in range(40)])
    problem = Problem((Model(1), Model(1)), workflows, Cluster.uniform(4, 4, 1), traffic)
    old = Plan((Replica(0, 0), Replica(1, 1)))
    found = rebalance(problem, old, effort=20_000)
    assert found is not None
    assert {step for step, _ in found.steps} == {Step.LOAD}
    assert {one.model for _, one in found.steps} == {1}
    assert found.after.measures.makespan == 21.0  # twenty of three seconds on three copies
