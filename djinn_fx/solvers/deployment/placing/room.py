"""What still fits where: memory, one model a device where that is asked, groups that stay together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from djinn_fx.solvers.deployment.problem import Problem, Replica


class Room:
    """Devices with the copies that they host so far.

    Args:
        problem: what is deployed.
        replicas: that are there to begin with.
    """

    def __init__(self, problem: Problem, replicas: Iterable[Replica] = ()) -> None:
        self.problem = problem
        self.free = list(problem.cluster.memory)
        self.hosts: list[set[int]] = [set() for _ in problem.cluster.server]
        self.replicas: set[Replica] = set()
        self.copies = [0] * len(problem.models)
        for one in replicas:
            self.put(one)

    @cached_property
    def _places(self) -> list[list[int]]:
        return [self.problem.cluster.places(one) for one in self.problem.models]

    def devices(self, one: Replica) -> range:
        """Those of its gang."""
        return range(one.first, one.first + self.problem.models[one.model].gang)

    def fits(self, one: Replica) -> bool:
        """Whether a further copy has room there, at a place that its model may take."""
        share, exclusive = self.problem.models[one.model].share, self.problem.exclusive
        return all(
            self.free[d] >= share and one.model not in self.hosts[d] and not (exclusive and self.hosts[d])
            for d in self.devices(one)
        )

    def candidates(self, model: int) -> list[Replica]:
        """Every copy of a model for which there is room."""
        return [one for first in self._places[model] if self.fits(one := Replica(model, first))]

    def aligned(self, model: int) -> list[Replica]:
        """Those whose gang begins at a multiple of its size in its server, if any: they leave no odd gaps."""
        found, gang = self.candidates(model), self.problem.models[model].gang
        cluster = self.problem.cluster
        good = [one for one in found if not (one.first - cluster.servers[cluster.server[one.first]].start) % gang]
        return good or found

    def put(self, one: Replica) -> None:
        """Load a copy."""
        for device in self.devices(one):
            self.free[device] -= self.problem.models[one.model].share
            self.hosts[device].add(one.model)
        self.replicas.add(one)
        self.copies[one.model] += 1

    def take(self, one: Replica) -> None:
        """Remove a copy."""
        for device in self.devices(one):
            self.free[device] += self.problem.models[one.model].share
            self.hosts[device].discard(one.model)
        self.replicas.remove(one)
        self.copies[one.model] -= 1

    def hosted(self, server: int) -> set[int]:
        """Models of which a server has a copy."""
        return set().union(*(self.hosts[d] for d in self.problem.cluster.servers[server]))

    @property
    def sorted(self) -> tuple[Replica, ...]:
        """The copies, in order."""
        return tuple(sorted(self.replicas))
