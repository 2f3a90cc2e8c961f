"""What still fits where: memory, one model a device where that is asked, groups that stay together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from djinn_fx.solvers.deployment.problem import Floats, Ints, Problem, Replica


class Room:
    """Devices with the copies that they host so far.

    Args:
        problem: what is deployed.
        replicas: that are there to begin with.
    """

    def __init__(self, problem: Problem, replicas: Iterable[Replica] = ()) -> None:
        self.problem = problem
        self.free = np.array(problem.cluster.memory, np.int64)
        #: How many models are on each device, and whether a model is on a device.
        self.count = np.zeros(problem.cluster.size, np.int64)
        self.on = np.zeros((len(problem.models), problem.cluster.size), bool)
        self.replicas: set[Replica] = set()
        self.copies = [0] * len(problem.models)
        for one in replicas:
            self.put(one)

    def copy(self) -> Room:
        """Another with the same copies."""
        made = Room(self.problem)
        made.free, made.count, made.on = self.free.copy(), self.count.copy(), self.on.copy()
        made.replicas, made.copies = set(self.replicas), list(self.copies)
        return made

    def devices(self, one: Replica) -> range:
        """Those of its gang."""
        return range(one.first, one.first + self.problem.models[one.model].gang)

    def firsts(self, model: int, *, aligned: bool = False) -> Ints:
        """First devices of every further copy of a model for which there is room.

        Args:
            model: which.
            aligned: only those that begin at a multiple of the gang in their server, if any: they leave no odd gaps.
        """
        if self.copies[model] == self.problem.copies:
            return np.zeros(0, np.int64)
        one = self.problem.models[model]
        fits = (self.free >= one.share) & ~self.on[model]
        if self.problem.exclusive:
            fits &= self.count == 0
        places, even = self.problem.places(model)
        good = fits[places]
        for step in range(1, one.gang):
            good &= fits[places + step]
        if aligned and (good & even).any():
            good &= even
        found: Ints = places[good]
        return found

    def fits(self, one: Replica) -> bool:
        """Whether there is room for a certain further copy."""
        return one.first in self.firsts(one.model).tolist()

    def candidates(self, model: int) -> list[Replica]:
        """Every further copy of a model for which there is room."""
        return [Replica(model, first) for first in self.firsts(model).tolist()]

    def aligned(self, model: int) -> list[Replica]:
        """As :meth:`firsts` with ``aligned``."""
        return [Replica(model, first) for first in self.firsts(model, aligned=True).tolist()]

    def put(self, one: Replica) -> None:
        """Load a copy."""
        self._change(one, 1)
        self.replicas.add(one)

    def take(self, one: Replica) -> None:
        """Remove a copy."""
        self._change(one, -1)
        self.replicas.remove(one)

    def _change(self, one: Replica, sign: int) -> None:
        model = self.problem.models[one.model]
        here = slice(one.first, one.first + model.gang)
        self.free[here] -= sign * model.share
        self.count[here] += sign
        self.on[one.model, here] = sign > 0
        self.copies[one.model] += sign

    def models_on(self, devices: Iterable[int]) -> set[int]:
        """Models of which some of these devices have a part."""
        return set(np.flatnonzero(self.on[:, list(devices)].any(axis=1)).tolist())

    def hosted(self, server: int) -> set[int]:
        """Models of which a server has a copy."""
        return self.models_on(self.problem.cluster.servers[server])

    def near(self, model: int, firsts: Ints) -> Ints:
        """For each first device, how many devices of its server have the model already."""
        servers = self.problem.servers
        return np.asarray(np.bincount(servers, self.on[model], servers[-1] + 1)[servers[firsts]], np.int64)

    def over(self, values: Floats, model: int, firsts: Ints) -> Floats:
        """For each gang, the largest of its devices' values."""
        found = values[firsts]
        for step in range(1, self.problem.models[model].gang):
            found = np.maximum(found, values[firsts + step])
        return found

    @property
    def sorted(self) -> tuple[Replica, ...]:
        """The copies, in order."""
        return tuple(sorted(self.replicas, key=_number))


def _number(one: Replica) -> tuple[int, int]:
    """Its order, several times as fast as by the class's own comparison."""
    return one.model, one.first


def best_first(room: Room, model: int, firsts: Ints, load: Floats, *, tight: bool = False) -> Replica:
    """Where a copy makes its busiest device least busy, or where least memory is left.

    Args:
        room: the devices.
        model: what is to be placed.
        firsts: where it may be; at least one.
        load: seconds that each device works so far.
        tight: look at memory first.
    """
    slow = room.over(room.problem.slowness, model, firsts)
    left = room.over(-room.free.astype(np.float64), model, firsts)
    work = room.over(load, model, firsts) + room.problem.work[model] * slow
    keys = (firsts, work, -left) if tight else (firsts, left, work)
    return Replica(model, int(firsts[np.lexsort(keys)[0]]))
