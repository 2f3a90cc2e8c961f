"""The model of :mod:`djinn_fx.solvers.deployment.placing.loads`, solved with a proof by CP-SAT (extra ``solve``).

What is proved, in this order: the least work of the most loaded device, where each model's work may be split over its
copies at will; of these the fewest results that cross servers, each edge weighted by how often it is used; of these the
fewest copies. Memory, gangs, pins and groups hold. What queues make of it (P99 above all) is not in the model.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.errors import SolverError
from djinn_fx.solvers.deployment.placing.loads import split
from djinn_fx.solvers.deployment.problem import Plan, Problem, Replica

#: The largest work of a device in whole numbers of the model: rounding is below a millionth of it.
SCALE = 1_000_000
#: Shares of the time for each of the three aims.
SHARES = (0.6, 0.9, 1.0)


@dataclass(frozen=True)
class Proved:
    """A placement and what is known of it.

    Attributes:
        plan: the placement; of queues nothing is said.
        load: seconds of the most loaded device.
        bound: seconds below which no placement's can be.
        crossings: results that cross servers.
        crossings_bound: below which those of no placement of that load can be.
        seconds: that it took.
    """

    plan: Plan
    load: float
    bound: float
    crossings: float
    crossings_bound: float
    seconds: float

    @property
    def gap(self) -> float:
        """By how much the load is above the bound, as a share of the bound."""
        return (self.load - self.bound) / self.bound if self.bound > 0 else 0.0


def available() -> bool:
    """Whether CP-SAT is installed."""
    return importlib.util.find_spec("ortools") is not None


def solve(
    problem: Problem,
    seconds: float = 10.0,
    *,
    hint: Plan | None = None,
    workers: int = 2,
    load_alone: bool = False,
) -> Proved | None:
    """The best placement within a time, with its bound; None where none exists or none was found.

    Args:
        problem: what is deployed.
        seconds: in all.
        hint: a plan to begin with.
        workers: threads.
        load_alone: all of the time is for the load; crossings and copies are as they come.

    Raises:
        SolverError: CP-SAT is not installed.
    """
    if not available():
        raise SolverError("an exact plan needs CP-SAT: pip install 'djinn-fx[solve]'")
    return _Model(problem).solve(seconds, hint, workers, load_alone=load_alone)


class _Model:
    def __init__(self, problem: Problem) -> None:
        from ortools.sat.python import cp_model

        self.cp, self.problem = cp_model, problem
        self.model: Any = cp_model.CpModel()
        slowest = max(problem.cluster.slowness)
        work = {m: float(problem.work[m]) for m in problem.used}
        least = max([*work.values(), 1e-9])
        area = sum(work[m] * problem.models[m].gang for m in work) / problem.cluster.size
        #: Units of the model for a second: as large as the bounds of the numbers allow.
        self.unit = SCALE / max(area, least / 64, 1e-9)
        self.work = {m: max(1, round(value * self.unit)) for m, value in work.items()}
        self.slow = [one / slowest for one in problem.cluster.slowness]
        self.slowest = slowest
        self.most = self.model.new_int_var(0, max(1, sum(self.work.values())), "most")
        self.here: dict[Replica, Any] = {}
        self.share: dict[Replica, Any] = {}
        self._copies()
        self._devices()
        self._counts()
        self._groups()
        self._order()

    def _copies(self) -> None:
        for m, total in self.work.items():
            places = [Replica(m, first) for first in self.problem.cluster.places(self.problem.models[m])]
            for one in places:
                self.here[one] = self.model.new_bool_var(f"y{m}_{one.first}")
                if self.problem.copies == 1:
                    self.share[one] = total * self.here[one]
                else:
                    self.share[one] = self.model.new_int_var(0, total, f"x{m}_{one.first}")
                    self.model.add(self.share[one] <= total * self.here[one])
            if self.problem.copies == 1:
                self.model.add_exactly_one([self.here[one] for one in places])
                continue
            self.model.add(sum(self.share[one] for one in places) == total)
            self.model.add_at_least_one([self.here[one] for one in places])
            if self.problem.copies is not None:
                self.model.add(sum(self.here[one] for one in places) <= self.problem.copies)

    def _devices(self) -> None:
        problem = self.problem
        on: list[list[Replica]] = [[] for _ in problem.cluster.server]
        for one in self.here:
            for device in range(one.first, one.first + problem.models[one.model].gang):
                on[device].append(one)
        for device, rows in enumerate(on):
            scale = 1000
            terms = [round(scale * self._slow(one)) * self.share[one] for one in rows]
            self.model.add(sum(terms) <= scale * self.most)
            memory = sum(problem.models[one.model].share * self.here[one] for one in rows)
            self.model.add(memory <= problem.cluster.memory[device])
            of_model: dict[int, list[Any]] = {}
            for one in rows:
                of_model.setdefault(one.model, []).append(self.here[one])
            for variables in of_model.values():
                if len(variables) > 1:
                    self.model.add_at_most_one(variables)
            if problem.exclusive:
                self.model.add_at_most_one([self.here[one] for one in rows])

    def _slow(self, one: Replica) -> float:
        return max(self.slow[one.first : one.first + self.problem.models[one.model].gang])

    def _counts(self) -> None:
        """What follows from the rest, and helps to prove: the area, and what each model's count of copies leaves."""
        problem, fastest = self.problem, min(self.slow)
        speed = sum(1 / one for one in self.slow)
        area = sum(total * problem.models[m].gang for m, total in self.work.items())
        self.model.add(self.most >= int(area / speed))
        if problem.copies == 1 and self.work:
            self.model.add(self.most >= int(max(self.work.values()) * fastest))
        for m, total in self.work.items() if problem.copies != 1 else ():
            mine = [self.here[one] for one in self.here if one.model == m]
            count = sum(mine)
            for copies in range(1, min(len(mine), 8) + 1):
                few = self.model.new_bool_var(f"few{m}_{copies}")
                self.model.add(count <= copies).only_enforce_if(few)
                self.model.add(count > copies).only_enforce_if(few.negated())
                self.model.add(self.most >= int(total * fastest / copies)).only_enforce_if(few)

    def _groups(self) -> None:
        for group in self.problem.groups:
            for devices in self.problem.cluster.servers:
                there = []
                for m in sorted(group & self.work.keys()):
                    rows = [self.here[one] for one in self.here if one.model == m and one.first in devices]
                    some = self.model.new_bool_var("")
                    self.model.add_max_equality(some, rows or [0])
                    there.append(some)
                for one, other in itertools.pairwise(there):
                    self.model.add(one == other)

    def _order(self) -> None:
        """Of servers that are alike the earlier ones do no less work: what differs in their numbers alone is one."""
        if self.problem.alike:
            parts = [self._part(devices) for devices in self.problem.cluster.servers]
            for one, other in itertools.pairwise(parts):
                self.model.add(one >= other)

    def _part(self, devices: range) -> Any:
        """Work of a server, a gang's on each of its devices."""
        return sum(self.problem.models[one.model].gang * self.share[one] for one in self.share if one.first in devices)

    # -- solving -------------------------------------------------------------------------------------------------------

    def solve(self, seconds: float, hint: Plan | None, workers: int, *, load_alone: bool) -> Proved | None:
        begun = time.monotonic()
        solver = self.cp.CpSolver()
        solver.parameters.num_workers = workers
        if hint is not None:
            chosen = set(self._sorted(hint.replicas))
            for one, variable in self.here.items():
                self.model.add_hint(variable, int(one in chosen))
        self.model.minimize(self.most)
        if not self._run(solver, (1.0 if load_alone else SHARES[0]) * seconds):
            return None
        least, bound = int(solver.objective_value), float(solver.best_objective_bound)
        found = self._taken(solver)
        self.model.add(self.most <= least)
        crossing = self._crossing()
        crossed = crossed_bound = 0.0
        aims = () if load_alone else ((crossing, SHARES[1]), (sum(self.here.values()), SHARES[2]))
        for aim, until in aims:
            self._hint(solver)
            self.model.minimize(aim)
            if not self._run(solver, until * seconds - (time.monotonic() - begun)):
                break
            found = self._taken(solver)
            if aim is crossing:
                crossed, crossed_bound = solver.objective_value, float(solver.best_objective_bound)
                self.model.add(crossing <= int(crossed))
        plan = Plan(tuple(sorted(found)), found_by="CP-SAT")
        back = self.slowest / self.unit
        taken = time.monotonic() - begun
        return Proved(plan, least * back, bound * back, crossed / 1000, crossed_bound / 1000, taken)

    def _sorted(self, replicas: Sequence[Replica]) -> list[Replica]:
        """Copies with servers in the order of their work, where they are alike."""
        if not self.problem.alike:
            return list(replicas)
        cluster, shares = self.problem.cluster, split(self.problem, replicas).share
        weight = [0.0] * len(cluster.servers)
        for one, seconds in zip(replicas, shares, strict=True):
            weight[cluster.server[one.first]] += seconds * self.problem.models[one.model].gang
        order = sorted(range(len(weight)), key=lambda server: -weight[server])
        place = {old: cluster.servers[new].start - cluster.servers[old].start for new, old in enumerate(order)}
        return [Replica(one.model, one.first + place[cluster.server[one.first]]) for one in replicas]

    def _run(self, solver: Any, seconds: float) -> bool:
        if seconds <= 0.05:
            return False
        solver.parameters.max_time_in_seconds = seconds
        return solver.solve(self.model) in (self.cp.OPTIMAL, self.cp.FEASIBLE)

    def _taken(self, solver: Any) -> list[Replica]:
        return [one for one, variable in self.here.items() if solver.boolean_value(variable)]

    def _hint(self, solver: Any) -> None:
        split = () if self.problem.copies == 1 else self.share.values()
        values = [(v, solver.value(v)) for v in (*self.here.values(), *split)]
        self.model.clear_hints()
        for variable, value in values:
            self.model.add_hint(variable, value)

    def _crossing(self) -> Any:
        """Thousandths of results that cross servers: of each edge, what is not in one server with both of its ends."""
        problem, terms = self.problem, []
        part = {
            (m, s): sum(self.share[one] for one in self.share if one.model == m and one.first in devices)
            for m in self.work
            for s, devices in enumerate(problem.cluster.servers)
        }
        for (source, target), times in problem.edges.items():
            if source == target:
                continue
            for s in range(len(problem.cluster.servers)):
                kept = self.model.new_int_var(0, 1000, "")
                self.model.add(kept * self.work[source] <= 1000 * part[source, s])
                self.model.add(kept * self.work[target] <= 1000 * part[target, s])
                terms.append(times * kept)
        most = sum(1000 * times for (source, target), times in problem.edges.items() if source != target)
        return most - sum(terms)
