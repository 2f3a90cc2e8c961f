"""What is deployed where: models, workflows of them, servers of devices, requests, and an answer.

Everything is numbered from 0. Memory is in bytes, time in seconds. A model that needs a gang takes consecutive devices
of one server, all of them at once, and its memory is split evenly over them. A device hosts what fits and runs one node
at a time; what runs is not interrupted. Nothing is loaded or unloaded after the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from djinn_fx.errors import SolverError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Model:
    """A model to be loaded.

    Attributes:
        memory: bytes of the whole of it.
        gang: devices that one copy takes.
        allowed: devices on which it may be; None: on all.
    """

    memory: int
    gang: int = 1
    allowed: frozenset[int] | None = None

    @property
    def share(self) -> int:
        """Bytes on each device of the gang, rounded up."""
        return -(-self.memory // self.gang)


@dataclass(frozen=True)
class Workflow:
    """Nodes in an order in which they may run.

    Attributes:
        models: the model of each node.
        before: for each node, those whose results it takes; each is an earlier one.
        nbytes: what travels along each of those edges, in bytes.
    """

    models: tuple[int, ...]
    before: tuple[tuple[int, ...], ...]
    nbytes: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def after(self) -> tuple[tuple[int, ...], ...]:
        """For each node, those that take its result."""
        found: list[list[int]] = [[] for _ in self.models]
        for node, earlier in enumerate(self.before):
            for one in earlier:
                found[one].append(node)
        return tuple(map(tuple, found))

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """From which node to which."""
        return tuple((one, node) for node, earlier in enumerate(self.before) for one in earlier)


@dataclass(frozen=True)
class Cluster:
    """Servers with their devices, numbered through.

    Attributes:
        server: the server of each device; a server's devices follow each other.
        memory: bytes of each device.
        slowness: seconds that a device takes for what is given as one second.
        latency: seconds that anything takes from one server to another.
        bandwidth: bytes per second between servers; 0: transfers take no time.
    """

    server: tuple[int, ...]
    memory: tuple[int, ...]
    slowness: tuple[float, ...]
    latency: float = 0.0
    bandwidth: float = 0.0

    @staticmethod
    def uniform(devices: int, per_server: int, memory: int) -> Cluster:
        """Devices that are alike; the last server may have fewer."""
        return Cluster(tuple(d // per_server for d in range(devices)), (memory,) * devices, (1.0,) * devices)

    @cached_property
    def size(self) -> int:
        """How many devices."""
        return len(self.server)

    @cached_property
    def servers(self) -> tuple[range, ...]:
        """The devices of each server."""
        found: list[list[int]] = [[] for _ in range(max(self.server, default=-1) + 1)]
        for device, server in enumerate(self.server):
            found[server].append(device)
        return tuple(range(one[0], one[-1] + 1) if one else range(0) for one in found)

    def places(self, model: Model) -> list[int]:
        """First devices of every gang that a model may take."""
        return [
            first
            for server in self.servers
            for first in range(server.start, server.stop - model.gang + 1)
            if (model.allowed is None or model.allowed.issuperset(range(first, first + model.gang)))
            and model.share <= min(self.memory[first : first + model.gang])
        ]


@dataclass(frozen=True, eq=False)
class Traffic:
    """Requests in the order of their arrival.

    Attributes:
        arrival: seconds since the first one's reckoning.
        workflow: of each request.
        first: where each request's nodes begin in ``times``; one more at the end.
        times: seconds that each node takes on a device of slowness 1.
    """

    arrival: Floats
    workflow: Ints
    first: Ints
    times: Floats

    @cached_property
    def size(self) -> int:
        """How many requests."""
        return len(self.arrival)

    @cached_property
    def request(self) -> Ints:
        """The request of each node."""
        return np.repeat(np.arange(self.size), np.diff(self.first))

    def offline(self) -> Traffic:
        """The same requests, all there at the start."""
        return Traffic(np.zeros(self.size), self.workflow, self.first, self.times)

    def slower(self, factor: float) -> Traffic:
        """The same requests where every node takes longer."""
        return Traffic(self.arrival, self.workflow, self.first, self.times * factor)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be deployed.

    Attributes:
        models: those that workflows name.
        workflows: of models.
        cluster: where.
        traffic: what is expected to be asked.
        groups: models of which each copy of one must find a copy of every other in its server.
        exclusive: whether a device hosts one model at most.
        copies: of each model at most; None: as many as there is room for.

    Raises:
        SolverError: it is none, such as a request of a workflow that there is not.
    """

    models: tuple[Model, ...]
    workflows: tuple[Workflow, ...]
    cluster: Cluster
    traffic: Traffic
    groups: tuple[frozenset[int], ...] = ()
    exclusive: bool = False
    copies: int | None = None

    def __post_init__(self) -> None:
        wrong = next(_what_is_wrong(self), None)
        if wrong:
            raise SolverError(f"models cannot be deployed: {wrong}")

    @cached_property
    def model_of(self) -> Ints:
        """The model of each node of each request."""
        parts = [np.asarray(one.models, np.int64) for one in self.workflows]
        found = np.empty(len(self.traffic.times), np.int64)
        for number, part in enumerate(parts):
            chosen = self.traffic.first[:-1][self.traffic.workflow == number]
            found[(chosen[:, None] + np.arange(len(part))).ravel()] = np.tile(part, len(chosen))
        return found

    @cached_property
    def work(self) -> Floats:
        """Seconds that each model is wanted for, on devices of slowness 1."""
        return np.bincount(self.model_of, self.traffic.times, len(self.models)).astype(np.float64)

    @cached_property
    def used(self) -> tuple[int, ...]:
        """Models that a request asks for; the others need no device."""
        return tuple(np.flatnonzero(np.bincount(self.model_of, minlength=len(self.models))).tolist())

    @cached_property
    def slowness(self) -> Floats:
        """Of each device."""
        return np.array(self.cluster.slowness, np.float64)

    @cached_property
    def servers(self) -> Ints:
        """Of each device."""
        return np.array(self.cluster.server, np.int64)

    def places(self, model: int) -> tuple[Ints, Bools]:
        """First devices that a model may take, and which of them are at a multiple of its gang in their server."""
        if model not in self._places:
            cluster, gang = self.cluster, self.models[model].gang
            found = np.array(cluster.places(self.models[model]), np.int64)
            starts = np.array([one.start for one in cluster.servers], np.int64)
            self._places[model] = found, (found - starts[self.servers[found]]) % gang == 0
        return self._places[model]

    @cached_property
    def _places(self) -> dict[int, tuple[Ints, Bools]]:
        return {}

    @cached_property
    def alike(self) -> bool:
        """Whether servers could change places without anybody noticing."""
        cluster = self.cluster
        rows = {
            (cluster.memory[one.start : one.stop], cluster.slowness[one.start : one.stop]) for one in cluster.servers
        }
        return len(rows) == 1 and all(one.allowed is None for one in self.models)

    @cached_property
    def edges(self) -> dict[tuple[int, int], int]:
        """How often a result goes from one model to another, over all requests."""
        found: dict[tuple[int, int], int] = {}
        count = np.bincount(self.traffic.workflow, minlength=len(self.workflows))
        for times, one in zip(count.tolist(), self.workflows, strict=True):
            for source, target in one.edges:
                pair = (one.models[source], one.models[target])
                found[pair] = found.get(pair, 0) + times
        return {pair: times for pair, times in found.items() if times}


def _what_is_wrong(problem: Problem) -> Iterator[str]:
    cluster, traffic = problem.cluster, problem.traffic
    if not len(cluster.server) == len(cluster.memory) == len(cluster.slowness):
        yield "servers, memory and slowness are not of the same devices"
    if list(cluster.server) != sorted(cluster.server):
        yield "the devices of a server do not follow each other"
    if min(cluster.slowness, default=1.0) <= 0 or min(cluster.memory, default=0) < 0:
        yield "a device's slowness or memory is not above 0"
    for number, model in enumerate(problem.models):
        if model.gang < 1 or model.memory < 0:
            yield f"model {number} takes {model.gang} devices and {model.memory} bytes"
    for number, one in enumerate(problem.workflows):
        if any(not 0 <= model < len(problem.models) for model in one.models):
            yield f"workflow {number} names a model that there is not"
        if len(one.before) != len(one.models) or any(e >= n for n, early in enumerate(one.before) for e in early):
            yield f"workflow {number}: a node waits for itself or a later one"
        if one.nbytes and [len(row) for row in one.nbytes] != [len(row) for row in one.before]:
            yield f"workflow {number}: not one size for each edge"
    if len(traffic.workflow) != traffic.size or len(traffic.first) != traffic.size + 1:
        yield "arrivals, workflows and nodes are not of the same requests"
    elif traffic.size and not 0 <= traffic.workflow.min() <= traffic.workflow.max() < len(problem.workflows):
        yield "a request is of a workflow that there is not"
    elif traffic.size:
        lengths = np.array([len(one.models) for one in problem.workflows])[traffic.workflow]
        if (np.diff(traffic.first) != lengths).any() or traffic.first[-1] != len(traffic.times):
            yield "a request has not one time for each node"
        if (np.diff(traffic.arrival) < 0).any() or not np.isfinite(traffic.arrival).all():
            yield "requests are not in the order of their arrival"
        if not np.isfinite(traffic.times).all() or traffic.times.min(initial=0) < 0:
            yield "a node takes less than no time"


@dataclass(frozen=True, order=True)
class Replica:
    """A copy of a model.

    Attributes:
        model: which.
        first: the first device of its gang.
    """

    model: int
    first: int


@dataclass(frozen=True)
class Discipline:
    """Who goes first where several wait for a device.

    Attributes:
        hold: a server goes on with gangs of the size that it runs until another node that waits is of a request that
            came this many nodes earlier. Changing over takes time: some devices of the gang wait for the others.
        local: all nodes of a request run in one server where one has all of its models.
        by_path: who has the longest way left goes first, rather than who came first.
    """

    hold: int = 0
    local: bool = False
    by_path: bool = False


@dataclass(frozen=True)
class Plan:
    """An answer: where copies are, and who goes first.

    Attributes:
        replicas: in order.
        discipline: of the queues.
        found_by: the method, for reports.
    """

    replicas: tuple[Replica, ...]
    discipline: Discipline = field(default_factory=Discipline)
    found_by: str = ""

    def memory(self, problem: Problem) -> list[int]:
        """Bytes that are taken of each device."""
        taken = [0] * problem.cluster.size
        for one in self.replicas:
            model = problem.models[one.model]
            for device in range(one.first, one.first + model.gang):
                taken[device] += model.share
        return taken
