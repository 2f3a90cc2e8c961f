"""The bench of deployments: its instances are what they say, and other rules are what their authors describe."""

from __future__ import annotations

import pytest

from bench.deploy.instances import instance
from bench.deploy.queues import erlang_c
from bench.deploy.rules import batches, published, switching
from djinn_fx.solvers.deployment.problem import Cluster, Model, Plan, Problem, Replica, Workflow
from djinn_fx.solvers.deployment.simulate import simulate
from tests.solvers.deployment.oracle import traffic_of


def test_instances_are_of_the_family() -> None:
    for seed in range(60):
        problem = instance(seed)
        assert {one.gang for one in problem.models} <= {1, 2, 4, 8}
        assert 5 <= len(problem.workflows) <= 20
        assert len(problem.cluster.servers) <= 16
        full = sum(one.share * one.gang for one in problem.models) / sum(problem.cluster.memory)
        assert 0.3 < full <= 1.11
    assert instance(5).work.tolist() == instance(5).work.tolist()


def some(models: tuple[Model, ...], devices: int, per_server: int, memory: int = 4) -> Problem:
    """A request for the first model three times, for the others once."""
    workflows = tuple(Workflow((m,), ((),)) for m in range(len(models)))
    rows = [(0.0, 0)] * 2 + [(0.0, m) for m in range(len(models))]
    times = [5.0] * len(rows)
    return Problem(models, workflows, Cluster.uniform(devices, per_server, memory), traffic_of(workflows, rows, times))


def test_the_published_rule_goes_by_usage_and_round_robin() -> None:
    problem = some((Model(1), Model(1), Model(2, 2)), 4, 2)
    assert published(problem).replicas == (Replica(0, 0), Replica(1, 1), Replica(2, 2))
    more = published(some((Model(1), Model(1), Model(2, 2)), 8, 2), rounds=True)
    assert more.replicas == (
        Replica(0, 0), Replica(0, 4), Replica(1, 1), Replica(1, 5), Replica(2, 2), Replica(2, 6),
    )  # fmt: skip
    none_left = published(some((Model(1), Model(1), Model(2, 2)), 2, 2))
    assert {one.model for one in none_left.replicas} == {0, 1}


def test_switching_loads_what_is_asked_for_and_lets_go_of_the_oldest() -> None:
    """One device for one model at a time: the first runs three times after one load, each other one after its own."""
    problem = some((Model(4), Model(4), Model(4)), 1, 1)
    makespan, _, switches = switching(problem, [1.0, 2.0, 3.0])
    assert switches == 3
    assert makespan == 5 * 5.0 + 1.0 + 2.0 + 3.0
    roomy = some((Model(1), Model(1), Model(1)), 1, 1)
    plan = Plan((Replica(0, 0), Replica(1, 0), Replica(2, 0)))
    assert switching(roomy, [0.0] * 3)[0] == simulate(roomy, plan).makespan


def test_batches_run_model_by_model() -> None:
    problem = some((Model(4), Model(4)), 2, 2)
    # Three nodes of five seconds on two devices, then one; a load before each.
    assert batches(problem, [1.0, 2.0]) == 1.0 + 10.0 + 2.0 + 5.0


def test_erlangs_c_for_one_server_is_its_load() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 0.5) == pytest.approx(1 / 3)
