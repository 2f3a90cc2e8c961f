"""Every placement of a tiny problem: what the searches are held against."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.placing.loads import split
from djinn_fx.solvers.deployment.problem import Discipline, Plan, Problem, Replica
from djinn_fx.solvers.deployment.simulate import simulate
from djinn_fx.solvers.deployment.validator import validate

#: Placements that are looked at, at most.
MOST = 200_000


def every_plan(problem: Problem, copies: int | None = None) -> Iterator[Plan]:
    """Every valid plan.

    Args:
        problem: a tiny one.
        copies: of each model at most; None: as many as there are places.

    Raises:
        SolverError: there are too many to look at.
    """
    choices: list[list[tuple[Replica, ...]]] = []
    count = 1
    for model in problem.used:
        places = [Replica(model, first) for first in problem.cluster.places(problem.models[model])]
        most = len(places) if copies is None else min(copies, len(places))
        sets = [one for n in range(1, most + 1) for one in itertools.combinations(places, n)]
        choices.append(sets)
        count *= len(sets)
        if count > MOST:
            raise SolverError(f"more than {MOST} placements of {len(problem.used)} models are too many to look at each")
    for chosen in itertools.product(*choices):
        plan = Plan(tuple(sorted(one for part in chosen for one in part)), found_by="exhaustive search")
        if not validate(problem, plan):
            yield plan


def exhaustive(
    problem: Problem, score: Callable[[Plan], float], copies: int | None = None
) -> tuple[float, Plan] | None:
    """The plan of the lowest score; None if there is no valid one."""
    best: tuple[float, Plan] | None = None
    for plan in every_plan(problem, copies):
        value = score(plan)
        if best is None or value < best[0]:
            best = value, plan
    return best


def best_makespan(problem: Problem, discipline: Discipline | None = None) -> tuple[float, Plan] | None:
    """The shortest makespan of all placements under one discipline."""

    def score(plan: Plan) -> float:
        return simulate(problem, Plan(plan.replicas, discipline or Discipline())).makespan

    return exhaustive(problem, score)


def least_load(problem: Problem) -> tuple[float, Plan] | None:
    """The least work of the most loaded device, with one copy of each model."""
    return exhaustive(problem, lambda plan: split(problem, plan.replicas).most, copies=1)
