"""Plans by greedy placement and moves, judged by simulating them: the default, in numpy and Python alone.

Placements are made in a few ways, compared by their most loaded device, and those that look best are simulated under a
few disciplines of their queues. Then copies are added, moved and taken away as long as the simulation says that it
helps. What is simulated is counted in executions of nodes, so that a seed gives the same plan everywhere.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from djinn_fx.solvers.deployment.bounds import Bounds, bounds_of
from djinn_fx.solvers.deployment.measures import Measures, measure
from djinn_fx.solvers.deployment.placing.greedy import balanced, filled, first_room, grouped, grown
from djinn_fx.solvers.deployment.placing.inside import inside_servers, other_workflows
from djinn_fx.solvers.deployment.placing.loads import crossing, split
from djinn_fx.solvers.deployment.placing.moves import polished
from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Discipline, Plan, Problem, Replica
from djinn_fx.solvers.deployment.simulate import simulate

#: Node executions that a search may simulate; the fewest plans that it looks at all the same, and the most.
EFFORT, FEWEST_RUNS, MOST_RUNS = 400_000, 6, 500
#: Makespans within this of the best found, or within that of the bound, count as the same, and P99 decides.
NEAR_BEST, NEAR_BOUND = 1.005, 1.015


class Aim(Enum):
    """What a plan is chosen by."""

    MAKESPAN = "makespan"
    P99 = "p99"
    CROSSINGS = "crossings"


@dataclass(frozen=True)
class Judged:
    """A plan that was simulated."""

    plan: Plan
    measures: Measures


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        best: by what was asked for.
        front: plans none of which is better than another in makespan, P99 and crossings all at once.
        bounds: of the makespan of any plan.
        runs: plans that were simulated.
    """

    best: Judged
    front: tuple[Judged, ...]
    bounds: Bounds
    runs: int


def search(
    problem: Problem, aim: Aim = Aim.MAKESPAN, *, effort: int = EFFORT, seed: int = 0, start: Plan | None = None
) -> Found | None:
    """The best plan found; None where no placement was found at all.

    Args:
        problem: what is deployed.
        aim: what comes first; the others break ties.
        effort: node executions to simulate.
        seed: of the moves.
        start: a plan to be no worse than, valid for the problem.
    """
    return _Search(problem, aim, effort, seed).run(start)


def placements(problem: Problem, count: int = 3) -> list[Room]:
    """Placements made in a few ways, without two alike."""
    found: list[Room] = []
    if problem.exclusive:
        room = balanced(problem)
        if room is not None:
            found.append(room)
    else:
        base = first_room(problem)
        if base is not None:
            least = polished(grown(base))
            found.append(least.copy())
            found += [filled(least.copy(), seed=seed) for seed in range(count)]
    if not found:
        base = first_room(problem)
        found = [] if base is None else [grown(base)]
    return list({one.sorted: one for one in found}.values())


class _Search:
    def __init__(self, problem: Problem, aim: Aim, effort: int, seed: int) -> None:
        self.problem, self.aim = problem, aim
        self.bounds = bounds_of(problem)
        self.chance = random.Random(seed)
        self.grouped = grouped(problem)
        nodes = max(1, len(problem.traffic.times))
        self.runs = max(FEWEST_RUNS, min(MOST_RUNS, effort // nodes))
        self.seen: dict[tuple[tuple[Replica, ...], Discipline], Judged] = {}

    def run(self, start: Plan | None) -> Found | None:
        """Placements, then disciplines for the best of them, then moves."""
        if start is not None:
            self._judge(start.replicas, start.discipline)
        for room in self._promising():
            self._judge(room.sorted, Discipline())
        if not self.seen:
            return None
        self._inside()
        for discipline in self._disciplines():
            kept = {one.plan.replicas: one for one in sorted(self.seen.values(), key=self._key, reverse=True)}
            for one in sorted(kept.values(), key=self._key)[:3]:
                if self._done():
                    break
                self._judge(one.plan.replicas, discipline)
        self._moves()
        judged = list(self.seen.values())
        return Found(chosen(judged, self.aim, self.bounds.makespan), tuple(front(judged)), self.bounds, len(judged))

    def _inside(self) -> None:
        """Placements in which every request can stay in one server; more of them where that is the aim."""
        if self.problem.exclusive or len(self.problem.cluster.servers) < 2:
            return
        hold = max(d.hold for d in self._disciplines())
        tries = self.runs // 3 if self.aim is Aim.CROSSINGS else self.runs // 6
        for seed in range(tries):
            room = inside_servers(self.problem, seed=seed)
            if room is not None:
                self._judge(room.sorted, Discipline(hold, local=True))

    def _promising(self) -> Iterator[Room]:
        """Placements, those with little on their most loaded device first."""
        rooms = placements(self.problem)
        rooms.sort(key=lambda room: split(self.problem, room.sorted).most)
        for room in rooms:
            if len(self.seen) < max(2, self.runs // 3):
                yield room

    def _disciplines(self) -> list[Discipline]:
        """Those worth a try: to hold on is of use where gangs of several sizes meet."""
        length = max(1, len(self.problem.traffic.times) // max(1, self.problem.traffic.size))
        holds = [h * length for h in (32, 128, 512)] if len({m.gang for m in self.problem.models}) > 1 else [0]
        if self.problem.exclusive:
            holds = [0]
        found = [Discipline(hold, local) for hold in holds for local in (False, True)]
        return [*found, *(Discipline(hold, by_path=True) for hold in holds[:2])]

    def _judge(self, replicas: tuple[Replica, ...], discipline: Discipline) -> Judged:
        key = (replicas, discipline)
        if key not in self.seen:
            plan = Plan(replicas, discipline, "greedy placement and moves, simulated")
            self.seen[key] = Judged(plan, measure(self.problem, plan, simulate(self.problem, plan)))
        return self.seen[key]

    def _key(self, one: Judged) -> tuple[float, ...]:
        return key_of(one, self.aim)

    def _done(self) -> bool:
        return len(self.seen) >= self.runs

    def _moves(self) -> None:
        """Change the best plan a little, keep what is better."""
        best = min(self.seen.values(), key=self._key)
        holds = {d.hold for _, d in self.seen}
        for _ in range(6 * self.runs):
            good_enough = self.aim is Aim.MAKESPAN and best.measures.makespan <= self.bounds.makespan * 1.001
            if self._done() or good_enough:
                return
            if len(holds) > 1 and self.chance.random() < 0.15:
                hold = max(1, round(best.plan.discipline.hold * self.chance.uniform(0.5, 2.0)))
                found = self._judge(best.plan.replicas, replace(best.plan.discipline, hold=hold))
            else:
                base = best if self.chance.random() < 0.75 else self._another()
                room = self._near(base)
                if room is None or (room.sorted, base.plan.discipline) in self.seen:
                    continue
                found = self._judge(room.sorted, base.plan.discipline)
            best = min(best, found, key=self._key)

    def _another(self) -> Judged:
        """One of the good plans, so that the search does not end where no single change helps."""
        good = heapq.nsmallest(10, self.seen.values(), key=self._key)
        return self.chance.choice(good)

    def _near(self, base: Judged) -> Room | None:
        """Another placement near a plan's."""
        room = Room(self.problem, base.plan.replicas)
        if base.plan.discipline.local and not self.grouped and self.chance.random() < 0.4:
            return other_workflows(room, self.chance)
        return room if self._change(room) else None

    def _change(self, room: Room) -> bool:
        """Add a copy, take one away or move one; several at once where one has no room."""
        change: Callable[[Room], bool] = self.chance.choice(
            (self._add, self._drop, self._move, self._move, self._again)
        )
        return change(room)

    def _add(self, room: Room) -> bool:
        model = self.chance.choice([m for m in self.problem.used if m not in self.grouped] or [-1])
        found = room.aligned(model) if model >= 0 else []
        if found:
            room.put(self.chance.choice(found))
        return bool(found)

    def _drop(self, room: Room) -> bool:
        spare = [one for one in room.sorted if room.copies[one.model] > 1 and one.model not in self.grouped]
        if spare:
            room.take(self.chance.choice(spare))
        return bool(spare)

    def _move(self, room: Room) -> bool:
        """Take a copy out and put it, or one of another model, elsewhere; what is in the way makes room."""
        free = [one for one in room.sorted if one.model not in self.grouped]
        if not free:
            return False
        gone = self.chance.choice(free)
        room.take(gone)
        model = gone.model if room.copies[gone.model] == 0 or self.chance.random() < 0.6 else None
        if model is None:
            model = self.chance.choice([m for m in self.problem.used if m not in self.grouped])
        found = [one for one in room.aligned(model) if one != gone]
        if not found:
            found = [one for one in self._forced(room, model) if one != gone]
        if not found:
            return False
        room.put(self.chance.choice(found))
        return all(room.copies[m] for m in self.problem.used)

    def _again(self, room: Room) -> bool:
        """Take a few copies out and put as many of the same models elsewhere, the widest first."""
        free = [one for one in room.sorted if one.model not in self.grouped]
        gone = self.chance.sample(free, min(len(free), self.chance.choice((2, 2, 3, 4))))
        for one in gone:
            room.take(one)
        for one in sorted(gone, key=lambda one: -self.problem.models[one.model].gang):
            found = room.aligned(one.model)
            if found:
                room.put(self.chance.choice(found))
            elif not room.copies[one.model]:
                return False
        return True

    def _forced(self, room: Room, model: int) -> list[Replica]:
        """A place for a model after copies there that have others elsewhere are taken away."""
        places = self.problem.places(model)[0].tolist()
        if not places:
            return []
        wanted = Replica(model, self.chance.choice(places))
        here = set(room.devices(wanted))
        for one in room.sorted:
            if not room.fits(wanted) and here & set(room.devices(one)) and room.copies[one.model] > 1:
                room.take(one)
        return [wanted] if room.fits(wanted) else []


def key_of(one: Judged, aim: Aim) -> tuple[float, ...]:
    """What is smaller for a better plan; who loses a request is never better."""
    found = one.measures
    lost = found.inside + found.across - found.completed
    rows = {
        Aim.MAKESPAN: (found.makespan, found.p99, found.crossings),
        Aim.P99: (found.p99, found.makespan, found.crossings),
        Aim.CROSSINGS: (found.crossings, found.makespan, found.p99),
    }
    return (lost, *rows[aim], len(one.plan.replicas))


def chosen(judged: list[Judged], aim: Aim, bound: float = 0.0) -> Judged:
    """The best by an aim; of those whose makespan is nearly the shortest, the one with the best P99."""
    best = min(judged, key=lambda one: key_of(one, aim))
    if aim is not Aim.MAKESPAN:
        return best
    lost, most = key_of(best, aim)[0], max(best.measures.makespan * NEAR_BEST, bound * NEAR_BOUND)
    near = [one for one in judged if key_of(one, aim)[0] == lost and one.measures.makespan <= most]
    return min(near, key=lambda one: key_of(one, Aim.P99))


def front(judged: list[Judged]) -> list[Judged]:
    """Those that no other one is as good as in makespan, P99 and crossings at once, the shortest makespan first."""
    found: list[Judged] = []
    for one in sorted(judged, key=lambda judged: key_of(judged, Aim.MAKESPAN)):
        mine = key_of(one, Aim.MAKESPAN)[:4]
        if not any(all(a <= b for a, b in zip(key_of(k, Aim.MAKESPAN)[:4], mine, strict=True)) for k in found):
            found.append(one)
    return found


def surrogate(problem: Problem, replicas: tuple[Replica, ...]) -> tuple[float, float]:
    """Seconds of the most loaded device, and results that cross servers, if work is split as well as can be."""
    loads = split(problem, replicas)
    return loads.most, crossing(problem, replicas, loads.share)
