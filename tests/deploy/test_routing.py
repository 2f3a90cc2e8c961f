"""The router decides as the simulator where all is as foretold, and goes on where copies are lost."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bench.deploy.instances import instance
from djinn_fx.deploy.running.routing import Router
from djinn_fx.solvers.deployment.problem import Discipline, Plan, Problem
from djinn_fx.solvers.deployment.search import search
from djinn_fx.solvers.deployment.simulate import simulate

DISCIPLINES = (Discipline(), Discipline(local=True, by_path=True, hold=3))


def planned(seed: int, discipline: Discipline) -> tuple[Problem, Plan]:
    """A small instance with gangs, and some plan of it."""
    while True:
        problem = instance(seed, models=(6, 9), servers=(1, 4))
        found = search(problem, effort=0)
        if found is not None:
            return problem, Plan(found.best.plan.replicas, discipline)
        seed += 1000  # it has no room for all models


@pytest.mark.parametrize("discipline", DISCIPLINES, ids=("by_request", "by_path"))
@pytest.mark.parametrize("seed", range(4))
def test_told_what_was_foretold_it_decides_as_the_simulator(seed: int, discipline: Discipline) -> None:
    problem, plan = planned(seed, discipline)
    foretold = simulate(problem, plan)
    router, arrival = Router(problem, plan), problem.traffic.arrival.tolist()
    coming = 0
    for now in sorted({*arrival, *foretold.end.tolist()}):
        touched: dict[int, None] = {}
        for node in sorted(router.running):
            if foretold.end[node] == now:
                router.ended(node, now, touched)
        while coming < len(arrival) and arrival[coming] == now:
            router.arrive(coming, now, touched)
            coming += 1
        router.settle(touched, now)
    found = router.outcome()
    assert (found.replica >= 0).all()
    for mine, theirs in ((found.start, foretold.start), (found.end, foretold.end), (found.ready, foretold.ready)):
        assert (mine == theirs).all()
    assert (found.replica == foretold.replica).all()


@pytest.mark.parametrize("discipline", DISCIPLINES, ids=("by_request", "by_path"))
@pytest.mark.parametrize("seed", range(6))
def test_with_copies_lost_every_request_ends_or_fails(seed: int, discipline: Discipline) -> None:
    problem, plan = planned(seed, discipline)
    chance = random.Random(seed)
    router, size = Router(problem, plan), problem.traffic.size
    lost: set[int] = set()
    touched: dict[int, None] = {}
    for request in range(size):
        router.arrive(request, 0.0, touched)
    now = 0.0
    while True:
        for _node, replica in router.settle(touched, now):
            assert replica not in lost
        touched = {}
        devices = [device for replica in router.running.values() for device in router.devices[replica]]
        assert len(devices) == len(set(devices))
        assert sum(router.busy) == len(devices)
        assert sum(router.idle) == problem.cluster.size - len(devices)
        if not router.running:
            break
        now += 1.0
        node = chance.choice(sorted(router.running))
        word = chance.random()
        if word < 0.01 and len(lost) < len(plan.replicas) // 2:
            gone = {router.running[node]}
            lost |= gone
            touched.update(router.lose(gone, f"lost at {now}", now))
        elif word < 0.02:
            router.broke(node, f"broken at {now}", touched)
        else:
            router.ended(node, now, touched)
    assert not router.waiting()
    assert lost
    found = router.outcome()
    done = ~np.isnan(np.maximum.reduceat(found.end, problem.traffic.first[:-1]))
    assert set(np.flatnonzero(done).tolist()) | router.failed.keys() == set(range(size))
    assert not set(np.flatnonzero(done).tolist()) & router.failed.keys()
    assert all("at" in why for why in router.failed.values())
