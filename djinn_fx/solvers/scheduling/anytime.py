"""A valid schedule at once, better ones until time is up."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator

from djinn_fx.errors import SolverError
from djinn_fx.solvers.scheduling.bounds import bounds_of
from djinn_fx.solvers.scheduling.listing import Listing, by_rank, listed, outlook, upward
from djinn_fx.solvers.scheduling.problem import Problem, Schedule

#: Seconds that an answer may take where nothing is said.
SECONDS = 0.5
#: How far ranks are changed at once, as a share of the largest.
SPREAD = 0.2


def schedule(problem: Problem, *, seconds: float | None = None, steps: int | None = None, seed: int = 0) -> Schedule:
    """The best schedule found; the last one of :func:`improvements`, which see."""
    *_, best = improvements(problem, seconds=seconds, steps=steps, seed=seed)
    return best


def improvements(
    problem: Problem, *, seconds: float | None = None, steps: int | None = None, seed: int = 0
) -> Iterator[Schedule]:
    """Valid schedules, each with an earlier end than the one before; ends when none can be earlier.

    Args:
        problem: what is scheduled.
        seconds: when to stop; the first four come whatever they are. Without them and without ``steps``: 0.5 s.
        steps: changes after which to stop. With steps and without seconds the answers depend on nothing but the problem
            and the seed.
        seed: of chance.

    Raises:
        SolverError: a task's inputs cannot all get to a device that can run it.
    """
    if seconds is None and steps is None:
        seconds = SECONDS
    end = math.inf if seconds is None else time.monotonic() + seconds
    bound, best = bounds_of(problem).best_s, math.inf
    if math.isinf(bound):
        raise SolverError("there is no schedule: some results cannot get to where they are used")
    for name, made in _tries(problem, seed):
        if name == CHANCE and (time.monotonic() >= end or steps == 0):
            return
        steps = steps - 1 if name == CHANCE and steps is not None else steps
        found = max(made.ends, default=0.0)
        if found < best * (1 - 1e-12) and math.isfinite(found):
            best = found
            yield Schedule(tuple(made.devices), tuple(made.starts), tuple(made.ends), tuple(made.moves), bound, name)
        if best <= bound * (1 + 1e-12):
            return
        if math.isinf(best) and name == CHANCE:
            raise SolverError("no schedule was found: some results cannot get to where they are used")


CHANCE = "orders and devices changed by chance"


def _tries(problem: Problem, seed: int) -> Iterator[tuple[str, Listing]]:
    """Schedules: by two ranks, with and without looking ahead; then the best of them with some of it changed."""
    ahead = outlook(problem)
    means = [sum(min(one, 1e300) for one in row) / max(len(row), 1) for row in ahead]
    best: tuple[float, list[float], list[int]] | None = None
    for (rank, ranks), (choice, table) in itertools.product(
        (("upward rank", upward(problem)), ("outlook", means)), (("looking ahead", ahead), ("earliest end", None))
    ):
        made = listed(problem, by_rank(problem, ranks), table)
        yield f"list by {rank}, {choice}", made
        if best is None or max(made.ends, default=0.0) < best[0]:
            best = (max(made.ends, default=0.0), list(ranks), list(made.devices))
    chance = random.Random(seed)
    while best is not None:
        ranks, devices = _changed(problem, best[1], best[2], chance)
        made = listed(problem, by_rank(problem, ranks), ahead, devices)
        if max(made.ends, default=0.0) <= best[0]:
            best = (max(made.ends, default=0.0), ranks, list(made.devices))
        yield CHANCE, made


def _changed(
    problem: Problem, ranks: list[float], devices: list[int], chance: random.Random
) -> tuple[list[float], list[int]]:
    """Some tasks earlier or later, some elsewhere or wherever it looks best."""
    ranks, devices, count = list(ranks), list(devices), len(devices)
    widest = max(ranks, default=0.0) or 1.0
    for _ in range(chance.randint(1, 3)):
        task = chance.randrange(count)
        if chance.random() < 0.5:
            ranks[task] += chance.uniform(-SPREAD, SPREAD) * widest
        else:
            devices[task] = chance.randrange(-1, problem.devices)
    return ranks, devices
