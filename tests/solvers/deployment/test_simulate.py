"""The simulator keeps the rules whatever it is given, and waits as long as queues are known to wait."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from djinn_fx.solvers.deployment.bounds import bounds_of
from djinn_fx.solvers.deployment.measures import latencies, measure
from djinn_fx.solvers.deployment.problem import Cluster, Discipline, Model, Plan, Problem, Replica, Workflow
from djinn_fx.solvers.deployment.simulate import Outcome, simulate
from djinn_fx.solvers.deployment.validator import validate, validate_run
from tests.solvers.deployment.oracle import everywhere, one_queue, some_plan, some_problem, traffic_of


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6))
def test_a_run_keeps_every_rule_and_both_bounds(seed: int) -> None:
    problem = some_problem(seed)
    plan = some_plan(problem, seed)
    if plan is None:
        return
    assert validate(problem, plan) == []
    outcome = simulate(problem, plan)
    assert validate_run(problem, plan, outcome) == []
    bounds = bounds_of(problem)
    assert outcome.makespan >= bounds.area - 1e-9
    assert outcome.makespan >= bounds.path - 1e-9
    found = measure(problem, plan, outcome)
    assert found.completed == problem.traffic.size == found.inside + found.across


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_nobody_waits_for_a_device_that_idles(seed: int) -> None:
    """Where no gang is wider than one device, a node that waits finds every device with its model at work."""
    problem = some_problem(seed)
    problem = replace(problem, models=tuple(replace(one, gang=1) for one in problem.models))
    plan = some_plan(problem, seed)
    if plan is None or plan.discipline.local:
        return
    outcome = simulate(problem, plan)
    for node, model in enumerate(problem.model_of.tolist()):
        for copy in (one for one in plan.replicas if one.model == model):
            for at in np.unique(outcome.end):
                if outcome.ready[node] <= at < outcome.start[node]:
                    assert busy_at(problem, plan, outcome, copy.first, at)


def busy_at(problem: Problem, plan: Plan, outcome: Outcome, device: int, at: float) -> bool:
    """Whether a node runs on a device just after a moment."""
    on = np.array([one.first == device for one in plan.replicas])[outcome.replica]
    return bool((on & (outcome.start <= at) & (outcome.end > at)).any())


@pytest.mark.parametrize("copies", [1, 3])
def test_one_queue_is_that_of_a_plain_recursion(copies: int) -> None:
    chance = random.Random(copies)
    arrival = sorted(chance.uniform(0, 100) for _ in range(400))
    times = [chance.expovariate(copies * 3.0) * copies for _ in arrival]
    problem = one_queue(times, arrival, copies)
    outcome = simulate(problem, everywhere(problem))
    free = [0.0] * copies
    for at, takes, start in zip(arrival, times, outcome.start, strict=True):
        begins = max(at, heapq.heappop(free))
        assert start == pytest.approx(begins)
        heapq.heappush(free, begins + takes)


def test_a_gang_takes_all_of_its_devices_and_those_wait_for_it() -> None:
    """Two devices; a single of 4 s, then a pair of 3 s, then singles of 1 s and 5 s."""
    workflows = (Workflow((0,), ((),)), Workflow((1,), ((),)))
    rows = [(0.0, 0), (1.0, 1), (1.0, 0), (2.0, 0)]
    problem = Problem(
        (Model(1), Model(2, 2)), workflows, Cluster.uniform(2, 2, 2), traffic_of(workflows, rows, [4.0, 3.0, 1.0, 5.0])
    )
    plan = Plan((Replica(0, 0), Replica(0, 1), Replica(1, 0)))
    outcome = simulate(problem, plan)
    # The pair is promised both devices at 4: until then the single of 1 s goes first, as the one of 5 s would not end.
    assert outcome.start.tolist() == [0.0, 4.0, 1.0, 7.0]
    assert validate_run(problem, plan, outcome) == []


def test_to_hold_on_to_a_gang_saves_changing_over() -> None:
    workflows = (Workflow((0,), ((),)), Workflow((1,), ((),)))
    rows = [(0.0, kind) for kind in (1, 0, 1, 0, 1, 0)]
    times = [2.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    models = (Model(1), Model(2, 2))
    problem = Problem(models, workflows, Cluster.uniform(2, 2, 2), traffic_of(workflows, rows, times))
    plan = Plan((Replica(0, 0), Replica(1, 0)))
    assert simulate(problem, plan).makespan == 9.0
    held = simulate(problem, replace(plan, discipline=Discipline(hold=100)))
    assert held.start.tolist() == [0.0, 6.0, 2.0, 7.0, 4.0, 8.0]


def test_a_request_that_stays_in_one_server_does() -> None:
    workflows = (Workflow((0, 1), ((), (0,))),)
    rows = [(0.0, 0), (0.0, 0), (0.0, 0), (0.0, 0)]
    problem = Problem(
        (Model(1), Model(1)), workflows, Cluster.uniform(4, 2, 1), traffic_of(workflows, rows, [1.0, 3.0] * 4)
    )
    plan = Plan((Replica(0, 0), Replica(0, 2), Replica(1, 1), Replica(1, 3)), Discipline(local=True))
    found = measure(problem, plan, simulate(problem, plan))
    assert (found.efficiency, found.crossings, found.makespan) == (100.0, 0, 7.0)


def test_transfers_between_servers_take_their_time() -> None:
    workflows = (Workflow((0, 1), ((), (0,)), ((), (500,))),)
    cluster = replace(Cluster.uniform(2, 1, 1), latency=0.25, bandwidth=1000.0)
    problem = Problem((Model(1), Model(1)), workflows, cluster, traffic_of(workflows, [(0.0, 0)], [1.0, 1.0]))
    plan = Plan((Replica(0, 0), Replica(1, 1)))
    outcome = simulate(problem, plan)
    assert outcome.end.tolist() == [1.0, 2.75]
    assert measure(problem, plan, outcome).crossing_bytes == 500
    assert validate_run(problem, plan, outcome) == []


def test_what_has_no_model_never_ends_and_counts_as_a_miss() -> None:
    workflows = (Workflow((0,), ((),)), Workflow((0, 1), ((), (0,))))
    rows = [(0.0, 0), (0.0, 1)]
    problem = Problem(
        (Model(1), Model(1)), workflows, Cluster.uniform(1, 1, 1), traffic_of(workflows, rows, [1.0, 1.0, 1.0])
    )
    plan = Plan((Replica(0, 0),))
    outcome = simulate(problem, plan)
    assert np.isnan(latencies(problem, outcome)).tolist() == [False, True]
    found = measure(problem, plan, outcome)
    assert (found.completed, found.efficiency) == (1, 50.0)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_fixed_times_wait_as_pollaczek_and_khinchine_say(share: float) -> None:
    """M/D/1: a mean wait of share / (2 (1 - share)) services. A million arrivals are in the bench."""
    assert mean_wait(1, share, fixed=True, count=60_000) == pytest.approx(share / (2 * (1 - share)), rel=0.06)


@pytest.mark.parametrize(("copies", "share", "wait"), [(2, 0.5, 1 / 3), (3, 0.8, 1.0787)])
def test_random_times_wait_as_erlang_says(copies: int, share: float, wait: float) -> None:
    """M/M/c: Erlang's C over c (1 - share), in services; for two copies that is share² / (1 - share²)."""
    assert mean_wait(copies, share, fixed=False, count=60_000) == pytest.approx(wait, rel=0.1)


def mean_wait(copies: int, share: float, *, fixed: bool, count: int) -> float:
    """Seconds that requests wait which take a second in the mean."""
    chance = np.random.default_rng(3)
    arrival = np.cumsum(chance.exponential(1 / (share * copies), count))
    times = np.ones(count) if fixed else chance.exponential(1.0, count)
    problem = one_queue(times.tolist(), arrival.tolist(), copies)
    outcome = simulate(problem, everywhere(problem))
    return float((outcome.start - outcome.ready).mean())
