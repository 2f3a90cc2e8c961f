"""Plans are valid, bounds are below them, and on tiny problems the best of all placements is met."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from bench.deploy.instances import instance
from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.bounds import bounds_of, placement_bound
from djinn_fx.solvers.deployment.exhaustive import best_makespan, every_plan
from djinn_fx.solvers.deployment.measures import measure
from djinn_fx.solvers.deployment.placing.fewest import fewest
from djinn_fx.solvers.deployment.placing.greedy import first_room
from djinn_fx.solvers.deployment.placing.inside import inside_servers, other_workflows
from djinn_fx.solvers.deployment.placing.loads import crossing, split
from djinn_fx.solvers.deployment.placing.packed import packed
from djinn_fx.solvers.deployment.problem import Cluster, Discipline, Model, Plan, Problem, Replica, Traffic, Workflow
from djinn_fx.solvers.deployment.search import Aim, search
from djinn_fx.solvers.deployment.simulate import simulate
from djinn_fx.solvers.deployment.validator import Rule, validate
from tests.solvers.deployment.oracle import some_problem, traffic_of


@pytest.mark.parametrize("seed", range(32))
def test_tiny_problems_come_near_the_best_placement_of_all(seed: int) -> None:
    problem = some_problem(seed, tiny=True, requests=12)
    try:
        best = best_makespan(problem, Discipline())
    except SolverError:
        pytest.skip("too many placements to look at each")
    found = search(problem, effort=40_000)
    assert (found is None) == (best is None)
    if found is None or best is None:
        return
    assert validate(problem, found.best.plan) == []
    assert found.bounds.makespan <= min(best[0], found.best.measures.makespan) + 1e-9
    assert found.front[0].measures.makespan <= best[0] * 1.02 + 1e-9
    assert found.best.measures.makespan <= max(best[0] * 1.025, found.bounds.makespan * 1.015) + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_the_placement_bound_holds_with_one_model_a_device(seed: int) -> None:
    problem = replace(some_problem(seed, tiny=True), exclusive=True)
    if sum(problem.models[m].gang for m in problem.used) > problem.cluster.size:
        return
    best = best_makespan(problem)
    if best is not None:
        assert placement_bound(problem)[0] <= best[0] + 1e-9
        found = search(problem, effort=2_000)
        assert found is not None
        assert found.best.measures.makespan >= found.bounds.makespan - 1e-9


@pytest.mark.parametrize("aim", Aim)
def test_what_is_aimed_at_is_best_of_what_was_looked_at(aim: Aim) -> None:
    problem = some_problem(11, requests=40)
    found = search(problem, aim, effort=20_000)
    assert found is not None
    values = {
        Aim.MAKESPAN: lambda one: one.measures.makespan,
        Aim.P99: lambda one: one.measures.p99,
        Aim.CROSSINGS: lambda one: one.measures.crossings,
    }
    best = min(map(values[aim], found.front))
    slack = 1.015 if aim is Aim.MAKESPAN else 1.0
    assert values[aim](found.best) <= best * slack


def test_a_plan_is_no_worse_than_the_one_it_starts_from() -> None:
    problem = some_problem(5, requests=40)
    first = search(problem, Aim.P99, effort=0)
    assert first is not None
    again = search(problem, Aim.P99, effort=0, seed=9, start=first.best.plan)
    assert again is not None
    assert again.best.measures.p99 <= first.best.measures.p99


def test_groups_stay_together_and_pins_hold() -> None:
    models = (Model(4), Model(4), Model(4, allowed=frozenset({3})))
    workflows = (Workflow((0, 1, 2), ((), (0,), (1,))),)
    rows = [(float(n), 0) for n in range(10)]
    traffic = traffic_of(workflows, rows, [1.0, 2.0, 1.0] * 10)
    problem = Problem(models, workflows, Cluster.uniform(4, 2, 8), traffic, groups=(frozenset({0, 1}),))
    found = search(problem)
    assert found is not None
    assert validate(problem, found.best.plan) == []
    assert Replica(2, 3) in found.best.plan.replicas
    servers = [{r.first // 2 for r in found.best.plan.replicas if r.model == m} for m in (0, 1)]
    assert servers[0] == servers[1]


def test_placements_inside_servers_keep_every_workflow_in_one() -> None:
    """Three workflows of two models each, four servers with room for four models: some servers take two of them."""
    workflows = tuple(Workflow((2 * w, 2 * w + 1), ((), (0,))) for w in range(3))
    rows = [(float(n), n % 3) for n in range(12)]
    problem = Problem(
        tuple(Model(5) for _ in range(6)), workflows, Cluster.uniform(8, 2, 10), traffic_of(workflows, rows, [1.0] * 24)
    )
    chance, found = random.Random(0), 0
    for seed in range(1, 30):
        room = inside_servers(problem, seed=seed)
        other = other_workflows(room, chance) if room is not None else None
        for one in (room, other):
            if one is None:
                continue
            found += 1
            plan = Plan(one.sorted, Discipline(local=True))
            assert validate(problem, plan) == []
            assert measure(problem, plan, simulate(problem, plan)).crossings == 0
    assert found > 10


def test_the_fewest_devices_are_named_and_proven() -> None:
    workflows = (Workflow((0, 1, 2), ((), (0,), (1,))),)
    traffic = traffic_of(workflows, [(0.0, 0)], [1.0] * 3)
    problem = Problem((Model(6), Model(5), Model(40, 4)), workflows, Cluster.uniform(4, 4, 10), traffic)
    # The gang takes all of four devices; the two others (6 and 5 of 10) need one each.
    assert search(problem) is None
    found = fewest(problem, lambda devices: Cluster.uniform(devices, 4, 10), 16)
    assert found is not None
    assert (found.devices, found.proven) == (6, True)


@pytest.mark.parametrize("seed", range(40))
def test_whether_there_is_a_placement_is_known_for_tiny_problems(seed: int) -> None:
    problem = some_problem(seed, tiny=True, requests=6)
    problem = replace(problem, cluster=replace(problem.cluster, memory=(40,) * problem.cluster.size))
    assert packed(problem)[0] == (next(every_plan(problem, copies=1), None) is not None)


def test_work_is_split_as_well_as_can_be() -> None:
    """A model of 6 s on both devices, one of 4 s on the first alone: 5 s each."""
    workflows = (Workflow((0,), ((),)), Workflow((1,), ((),)))
    problem = Problem(
        (Model(1), Model(1)),
        workflows,
        Cluster.uniform(2, 1, 2),
        traffic_of(workflows, [(0.0, 0), (0.0, 1)], [6.0, 4.0]),
    )
    replicas = (Replica(0, 0), Replica(0, 1), Replica(1, 0))
    found = split(problem, replicas)
    assert found.device == pytest.approx((5.0, 5.0))
    assert found.share == pytest.approx((1.0, 5.0, 4.0))


def test_results_that_cross_are_counted_by_shares() -> None:
    workflows = (Workflow((0, 1), ((), (0,))),)
    traffic = traffic_of(workflows, [(0.0, 0)] * 4, [1.0, 1.0] * 4)
    problem = Problem((Model(1), Model(1)), workflows, Cluster.uniform(4, 2, 1), traffic)
    replicas = (Replica(0, 0), Replica(0, 2), Replica(1, 1))
    assert crossing(problem, replicas, (1.0, 3.0, 4.0)) == pytest.approx(3.0)


BROKEN = {
    Rule.PLACE: Plan((Replica(0, 0), Replica(1, 1))),
    Rule.MEMORY: Plan((Replica(0, 0), Replica(1, 0), Replica(2, 0))),
    Rule.ONCE: Plan((Replica(0, 0), Replica(0, 0), Replica(1, 2))),
    Rule.HOSTED: Plan((Replica(0, 0),)),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_named(rule: Rule) -> None:
    workflows = (Workflow((0, 1), ((), (0,))),)
    problem = Problem(
        (Model(6), Model(8, 2), Model(6)),
        workflows,
        Cluster.uniform(4, 2, 12),
        traffic_of(workflows, [(0.0, 0)], [1.0, 1.0]),
    )
    assert [one.rule for one in validate(problem, BROKEN[rule])] == [rule]
    assert validate(problem, Plan((Replica(0, 0), Replica(1, 2)))) == []


def test_what_is_no_problem_is_refused() -> None:
    workflows = (Workflow((0, 1), ((), (0,))),)
    traffic = traffic_of(workflows, [(0.0, 0)], [1.0, 1.0])
    with pytest.raises(SolverError, match="names a model"):
        Problem((Model(1),), workflows, Cluster.uniform(1, 1, 1), traffic)
    late = Traffic(np.array([1.0, 0.0]), np.zeros(2, int), np.array([0, 2, 4]), np.ones(4))
    with pytest.raises(SolverError, match="order of their arrival"):
        Problem((Model(1), Model(1)), workflows, Cluster.uniform(1, 1, 1), late)
    assert bounds_of(Problem((Model(1),), (), Cluster.uniform(1, 1, 1), Traffic(*map(np.array, ([], [], [0], [])))))


def test_one_copy_each_is_found_where_memory_is_tight_and_gangs_stand_askew() -> None:
    problem = replace(instance(80), copies=1)
    room = first_room(problem)
    assert room is not None
    assert not validate(problem, Plan(room.sorted))
