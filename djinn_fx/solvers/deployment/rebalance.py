"""From one plan to another for new traffic: few copies loaded, one after the other, and no model ever without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from djinn_fx.solvers.deployment.measures import measure
from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Discipline, Plan, Problem, Replica
from djinn_fx.solvers.deployment.search import EFFORT, Aim, Judged, key_of, search
from djinn_fx.solvers.deployment.simulate import simulate


class Step(Enum):
    """What is done to a copy."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class Rebalanced:
    """How to go from the old plan to a new one.

    Attributes:
        steps: in order; after each of them every model that is asked for has a copy, and memory holds.
        plan: after the last one.
        before: what the old plan comes to with the new traffic.
        after: what the new one does.
        anew: what a plan made from nothing does.
    """

    steps: tuple[tuple[Step, Replica], ...]
    plan: Plan
    before: Judged
    after: Judged
    anew: Judged

    @property
    def loads(self) -> int:
        """Copies that are loaded."""
        return sum(step is Step.LOAD for step, _ in self.steps)


def rebalance(
    problem: Problem, old: Plan, aim: Aim = Aim.MAKESPAN, *, slack: float = 0.02, effort: int = EFFORT
) -> Rebalanced | None:
    """The fewest loads found that regain what a new plan would reach; None where nothing serves the new traffic.

    Args:
        problem: with the new traffic.
        old: the plan that is deployed, valid but for models that nobody asked for before.
        aim: what is to be regained.
        slack: by how much the answer may be worse than a plan made from nothing, as a share.
        effort: node executions to simulate for the plan made from nothing.
    """
    before = _judged(problem, old)
    found = search(problem, aim, effort=effort, start=None if _lost(before) else old)
    if found is None:
        return None
    anew = found.best
    best = min((_judged(problem, replace(old, discipline=d)) for d in _disciplines(old, anew)), key=_by(aim))
    room = Room(problem, old.replicas)
    wanted = set(anew.plan.replicas) - set(old.replicas)
    while wanted and not _regained(best, anew, aim, slack):
        tried = [
            (_judged(problem, Plan(there.sorted, anew.plan.discipline)), one, there)
            for one in sorted(wanted)
            if (there := _with(room, one, anew.plan)) is not None
        ]
        if not tried:
            break
        step, one, room = min(tried, key=lambda row: (_by(aim)(row[0]), row[1]))
        wanted.discard(one)
        best = min(best, step, key=_by(aim))
    if not _regained(best, anew, aim, slack):
        best = anew
    best = _without_needless(problem, old, best, anew, aim, slack)
    steps = in_order(problem, old.replicas, best.plan.replicas)
    if steps is None:
        return Rebalanced((), old, before, before, anew)
    return Rebalanced(tuple(steps), replace(best.plan, found_by="rebalanced"), before, best, anew)


def _disciplines(old: Plan, anew: Judged) -> set[Discipline]:
    return {old.discipline, anew.plan.discipline}


def _judged(problem: Problem, plan: Plan) -> Judged:
    return Judged(plan, measure(problem, plan, simulate(problem, plan)))


def _by(aim: Aim) -> Callable[[Judged], tuple[float, ...]]:
    return lambda one: key_of(one, aim)


def _lost(one: Judged) -> bool:
    return one.measures.completed < one.measures.inside + one.measures.across


def _regained(one: Judged, anew: Judged, aim: Aim, slack: float) -> bool:
    """Whether a plan is nearly as good as the one made from nothing, in what was asked for."""
    mine, theirs = key_of(one, aim)[:2], key_of(anew, aim)[:2]
    return mine[0] <= theirs[0] and mine[1] <= theirs[1] * (1 + slack) + 1e-9


def _with(room: Room, one: Replica, target: Plan) -> Room | None:
    """The room with a further copy, copies that the target has not making way for it; None where they cannot."""
    there, kept = room.copy(), set(target.replicas)
    devices = set(there.devices(one))
    for other in sorted(there.replicas):
        if there.fits(one):
            break
        if other not in kept and devices & set(there.devices(other)) and there.copies[other.model] > 1:
            there.take(other)
    for other in sorted(there.replicas):  # the last copy of a model makes way where another one is to come
        if there.fits(one):
            break
        elsewhere = any(mine.model == other.model and mine not in there.replicas for mine in kept)
        if other not in kept and devices & set(there.devices(other)) and elsewhere:
            there.take(other)
    if not there.fits(one):
        return None
    there.put(one)
    return there


def _without_needless(problem: Problem, old: Plan, best: Judged, anew: Judged, aim: Aim, slack: float) -> Judged:
    """Leave out each load without which the objective is regained all the same, and keep old copies that fit."""
    mine = set(old.replicas)
    for one in sorted(set(best.plan.replicas) - mine):
        rest = Room(problem, set(best.plan.replicas) - {one})
        for other in sorted(mine):
            if other not in rest.replicas and rest.fits(other):
                rest.put(other)
        if all(rest.copies[model] for model in problem.used):
            found = _judged(problem, replace(best.plan, replicas=rest.sorted))
            if _regained(found, anew, aim, slack):
                best = found
    return best


def in_order(problem: Problem, old: Iterable[Replica], new: Iterable[Replica]) -> list[tuple[Step, Replica]] | None:
    """Loads and unloads after each of which memory holds and every model of the new plan that had a copy has one.

    Where two copies are in each other's way, one of them has a further copy for a while, where there is room.

    Returns:
        None where there is none.
    """
    room, target = Room(replace(problem, copies=None), old), set(new)
    found: list[tuple[Step, Replica]] = []
    needed = {one.model for one in target} & {one.model for one in room.replicas}
    helpers = 0
    while room.replicas != target:
        coming = [one for one in sorted(target - room.replicas) if room.fits(one)]
        going = [one for one in sorted(room.replicas - target) if room.copies[one.model] > 1 or one.model not in needed]
        if coming:
            room.put(coming[0])
            found.append((Step.LOAD, coming[0]))
        elif going:
            room.take(going[0])
            found.append((Step.UNLOAD, going[0]))
        else:
            helper = next((two for one in sorted(room.replicas - target) for two in room.candidates(one.model)), None)
            helpers += 1
            if helper is None or helpers > len(target):
                return None
            room.put(helper)
            found.append((Step.LOAD, helper))
            blocked = next(one for one in sorted(room.replicas - target) if one.model == helper.model and one != helper)
            room.take(blocked)
            found.append((Step.UNLOAD, blocked))
    return found
