"""How loaded devices are if each model's work is split over its copies as well as can be: what the search looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from djinn_fx.solvers.deployment.problem import Problem, Replica


@dataclass(frozen=True)
class Loads:
    """A split of the work.

    Attributes:
        share: seconds of its model's work that each copy takes.
        device: seconds that each device works.
    """

    share: tuple[float, ...]
    device: tuple[float, ...]

    @property
    def most(self) -> float:
        """Of the device that works longest."""
        return max(self.device, default=0.0)


def split(problem: Problem, replicas: Sequence[Replica], rounds: int = 12) -> Loads:
    """Split each model's work over its copies so that the most loaded device works little.

    Models take turns; each fills its copies from below up to one level, as water does, given what the others do.

    Args:
        problem: with the work of each model.
        replicas: where copies are.
        rounds: turns of all models at most.
    """
    slowness, models = problem.cluster.slowness, problem.models
    devices = [range(r.first, r.first + models[r.model].gang) for r in replicas]
    slow = [max(slowness[d] for d in here) for here in devices]
    of_model: dict[int, list[int]] = {}
    for number, one in enumerate(replicas):
        of_model.setdefault(one.model, []).append(number)
    work = problem.work.tolist()
    load = [0.0] * problem.cluster.size
    share = [0.0] * len(replicas)
    order = sorted(of_model, key=lambda m: (len(of_model[m]) > 1, -models[m].gang, -work[m]))
    most = float("inf")
    for _ in range(rounds):
        for model in order:
            numbers = of_model[model]
            for n in numbers:
                for d in devices[n]:
                    load[d] -= share[n] * slow[n]
            if len(numbers) == 1:
                taken = [work[model]]
            else:
                taken = _fill(
                    [max([load[d] for d in devices[n]]) for n in numbers], [slow[n] for n in numbers], work[model]
                )
            for n, seconds in zip(numbers, taken, strict=True):
                share[n] = seconds
                for d in devices[n]:
                    load[d] += seconds * slow[n]
        now = max(load, default=0.0)
        if now > most * 0.999:
            break
        most = now
    return Loads(tuple(share), tuple(load))


def _fill(base: list[float], slow: list[float], work: float) -> list[float]:
    """Raise the lowest ones to one level so that the work is all there: device seconds above a base, over slowness."""
    rows = sorted(zip(base, slow, strict=True))
    rate = volume = level = 0.0
    for place, (height, slowness) in enumerate(rows):
        rate += 1 / slowness
        volume += height / slowness
        level = (work + volume) / rate
        if place + 1 == len(rows) or level <= rows[place + 1][0]:
            break
    return [max(0.0, level - height) / slowness for height, slowness in zip(base, slow, strict=True)]


def crossing(problem: Problem, replicas: Sequence[Replica], share: Sequence[float]) -> float:
    """Results that go to another server, over all requests, if each server keeps what it can.

    Of an edge between two models that stays in a server which has so much of the one's work and so much of the other's
    is the smaller of both shares.
    """
    work, server = problem.work, problem.cluster.server
    part: dict[int, dict[int, float]] = {}
    for one, seconds in zip(replicas, share, strict=True):
        row = part.setdefault(one.model, {})
        here = server[one.first]
        row[here] = row.get(here, 0.0) + (seconds / work[one.model] if work[one.model] else 0.0)
    found = 0.0
    for (source, target), times in problem.edges.items():
        there = part.get(target, {})
        kept = sum(min(value, there.get(here, 0.0)) for here, value in part.get(source, {}).items())
        found += times * (1 - min(kept, 1.0))
    return found
