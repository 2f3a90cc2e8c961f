"""A valid placement at once, better ones until time is up."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from djinn_fx.errors import SolverError
from djinn_fx.solvers.placement.fewest import fewest
from djinn_fx.solvers.placement.latency import latencies
from djinn_fx.solvers.placement.loads import largest_loads
from djinn_fx.solvers.placement.problem import Aim, Goal, Problem, Solution
from djinn_fx.solvers.placement.progress import Best, Clock

#: Seconds that an answer may take where nothing is said: so many, and more for each operator above so many.
SECONDS, SECONDS_AN_OPERATOR, FREE_OPERATORS = 0.9, 1 / 500, 800


def place(
    problem: Problem, goal: Goal, *, seconds: float | None = None, steps: int | None = None, seed: int = 0
) -> Solution:
    """The best placement found; the last one of :func:`improvements`, which see."""
    *_, best = improvements(problem, goal, seconds=seconds, steps=steps, seed=seed)
    return best


def improvements(
    problem: Problem, goal: Goal, *, seconds: float | None = None, steps: int | None = None, seed: int = 0
) -> Iterator[Solution]:
    """Valid placements, each with a better figure or a higher bound than the one before; ends when none can be better.

    Args:
        problem: what is placed.
        goal: what is to be small, and whether values may only go forward.
        seconds: when to stop; the first answer comes whatever they are. Without them and without ``steps``: 0.9 s, and
            2 ms an operator above 800 of them.
        steps: of searches by chance, after which to stop. With steps and without seconds the answers depend on nothing
            but the problem and the seed.
        seed: of chance.

    Raises:
        SolverError: none was found: an operator that no device can take, too little memory, a deadline that nothing
            meets. The message says what is known of the reason.
    """
    _check_possible(problem)
    clock = Clock(_seconds(problem, seconds, steps), steps)
    search = latencies if goal.timed.aim is Aim.LATENCY else largest_loads
    if goal.aim is Aim.DEVICES:
        found, nearest = fewest(problem, goal, search, clock, seed)
        if found is None:
            raise SolverError(f"no placement was found that takes {goal.deadline_s:.6g} s or less; {_missed(nearest)}")
        yield found
        return
    best = Best(problem, goal, 0.0)
    yield from search(best, clock, seed)
    if best.solution is None:
        sure = "there is no" if best.bound == math.inf else "no"
        memory = sum(one.memory_bytes for one in problem.operators)
        room = sum(device.memory_bytes for device in problem.devices)
        raise SolverError(f"{sure} placement was found; operators keep {memory:.0f} bytes, devices have {room:.0f}")


def _seconds(problem: Problem, seconds: float | None, steps: int | None) -> float | None:
    if seconds is not None or steps is not None:
        return seconds
    return SECONDS + SECONDS_AN_OPERATOR * max(0, len(problem.operators) - FREE_OPERATORS)


def _missed(nearest: float) -> str:
    return "none fits at all" if math.isinf(nearest) else f"the nearest takes {nearest:.6g} s"


def _check_possible(problem: Problem) -> None:
    """A group that no device can take is said at once, and by name."""
    groups: dict[object, list[int]] = defaultdict(list)
    for place, one in enumerate(problem.operators):
        groups[(place,) if one.group is None else one.group].append(place)
    for places in groups.values():
        members = [problem.operators[place] for place in places]
        memory = sum(one.memory_bytes for one in members)
        may = [
            device
            for at, device in enumerate(problem.devices)
            if all(one.times_s[device.kind] < math.inf and one.fixed in (None, at) for one in members)
        ]
        room = max((device.memory_bytes for device in may), default=-1.0)
        if memory > room:
            what = f"keeps {memory:.0f} bytes, and the largest device for it has {room:.0f}"
            reason = what if may else "is fixed to devices that differ, or no device is of a kind that can run it"
            raise SolverError(f"operator {places[0]}, with {len(places) - 1} co-located, {reason}")
