"""What was read: models, workflows of them and requests, with their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from djinn_fx.solvers.deployment.problem import Cluster, Model, Problem, Traffic, Workflow


@dataclass(frozen=True)
class Price:
    """What cost models say of one call of a model.

    Attributes:
        time_s: seconds.
        low_s: lower end of the time's 80 % interval.
        high_s: its upper end.
        provenance: where the time comes from: ``datasheet``, ``calibrated``, ``learned``, ``measured``, ``mixed``.
        device: that it is priced for.
        memory: bytes, foretold for the peak, weights included.
    """

    time_s: float
    low_s: float
    high_s: float
    provenance: str
    device: str
    memory: int


@dataclass(frozen=True)
class ModelInfo:
    """A model of a configuration.

    Attributes:
        name: by which workflows call it.
        memory: bytes of the whole of it.
        gang: devices that it takes at once.
        load_s: seconds to load it, before anything runs.
        expected_s: seconds that a node of it is expected to take; None where nothing says.
        entry: ``package.module:function`` that makes it; empty where there is none.
        devices: numbers of the devices on which it may be; None: all.
        servers: likewise of servers.
        place: file and line, for errors.
        weighed: whether its memory is known; else it has an entry, and is weighed before anything is planned.
        price: what cost models say of the dearest call of it; None where nobody asked them.
    """

    name: str
    memory: int
    gang: int = 1
    load_s: float = 0.0
    expected_s: float | None = None
    entry: str = ""
    devices: frozenset[int] | None = None
    servers: frozenset[int] | None = None
    place: str = ""
    weighed: bool = True
    price: Price | None = None


@dataclass(frozen=True)
class NodeInfo:
    """A node of a workflow.

    Attributes:
        name: of the node.
        model: that it runs.
        before: nodes whose results it takes.
        nbytes: what travels along each of those edges.
    """

    name: str
    model: str
    before: tuple[str, ...]
    nbytes: tuple[int, ...]


@dataclass(frozen=True)
class Config:
    """Models and workflows.

    Attributes:
        file: where they were read.
        models: by name.
        workflows: for each name its nodes, in an order in which they may run.
        groups: names of models that stay in one server.
    """

    file: str
    models: Mapping[str, ModelInfo]
    workflows: Mapping[str, tuple[NodeInfo, ...]]
    groups: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, eq=False)
class Workload:
    """A configuration and the requests that it is to serve.

    Attributes:
        config: models and workflows.
        requests: their names, in the order of arrival.
        traffic: arrivals and times, numbered as in the configuration.
        data: of each request, what its models are given; empty where it was not to be read.
        samples: for each workflow what its first request gives to its models.
    """

    config: Config
    requests: tuple[str, ...]
    traffic: Traffic
    data: tuple[Mapping[str, Any], ...] = ()
    samples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def model_names(self) -> tuple[str, ...]:
        """In the order of their numbers."""
        return tuple(self.config.models)

    @property
    def workflow_names(self) -> tuple[str, ...]:
        """In the order of their numbers."""
        return tuple(self.config.workflows)

    def problem(
        self, cluster: Cluster, *, exclusive: bool = False, offline: bool = False, copies: int | None = None
    ) -> Problem:
        """What a solver is given.

        Args:
            cluster: the devices.
            exclusive: one model a device.
            offline: all requests are there at the start.
            copies: of each model at most; None: as many as there is room for.
        """
        number = {name: n for n, name in enumerate(self.config.models)}
        models = tuple(Model(one.memory, one.gang, _allowed(one, cluster)) for one in self.config.models.values())
        groups = tuple(frozenset(number[name] for name in one) for one in self.config.groups)
        traffic = self.traffic.offline() if offline else self.traffic
        return Problem(models, workflows_of(self.config), cluster, traffic, groups, exclusive, copies)


def workflows_of(config: Config) -> tuple[Workflow, ...]:
    """A configuration's workflows by numbers."""
    number = {name: n for n, name in enumerate(config.models)}
    found = []
    for nodes in config.workflows.values():
        place = {one.name: n for n, one in enumerate(nodes)}
        models = tuple(number[one.model] for one in nodes)
        before = tuple(tuple(place[name] for name in one.before) for one in nodes)
        found.append(Workflow(models, before, tuple(one.nbytes for one in nodes)))
    return tuple(found)


def _allowed(one: ModelInfo, cluster: Cluster) -> frozenset[int] | None:
    if one.devices is None and one.servers is None:
        return None
    found = set(range(cluster.size)) if one.devices is None else set(one.devices)
    if one.servers is not None:
        found &= {device for device, server in enumerate(cluster.server) if server in one.servers}
    return frozenset(found)
