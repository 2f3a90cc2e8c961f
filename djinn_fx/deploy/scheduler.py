"""The planner under the names that readers of GSwarm's static scheduler know."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from djinn_fx.deploy.cluster import uniform
from djinn_fx.deploy.planning import Planned, Wish, make_plan
from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.requests import read_requests
from djinn_fx.deploy.reading.workload import Config, Workload
from djinn_fx.deploy.telling.rows import device_rows
from djinn_fx.errors import SettingsError
from djinn_fx.solvers.deployment.placing.patterns import patterns_of
from djinn_fx.solvers.deployment.problem import Plan


@dataclass(frozen=True)
class ModelAffinity:
    """Two models that requests ask for together.

    Attributes:
        model1: the one.
        model2: the other.
        frequency: pairs of nodes of one request that ask for them.
        total_time: seconds that both work, over all requests.
    """

    model1: str
    model2: str
    frequency: int
    total_time: float


@dataclass(frozen=True)
class ServerInfo:
    """A server, its devices, and the models that they host."""

    server_id: int
    gpu_ids: tuple[int, ...]
    models: frozenset[str] = frozenset()

    def can_complete_locally(self, workflow_models: Collection[str]) -> bool:
        """Whether all models of a workflow are here."""
        return self.models.issuperset(workflow_models)


@dataclass(frozen=True)
class DeviceState:
    """A device after all requests."""

    gpu_id: int
    server_id: int
    assigned_models: frozenset[str]
    total_busy_time: float
    execution_count: int
    utilization: float


@dataclass(frozen=True)
class Analysis:
    """How workflows use models.

    Attributes:
        model_usage: nodes that ask for each model.
        model_cooccurrence: the pairs, the most frequent one first.
        workflow_frequency: requests of each workflow.
    """

    model_usage: Mapping[str, int]
    model_cooccurrence: Sequence[ModelAffinity]
    workflow_frequency: Mapping[str, int]


@dataclass
class StaticScheduler:
    """Reads, analyses, assigns, runs (simulated).

    Attributes:
        gpus: how many devices.
        gpus_per_server: of them in each server.
        gpu_memory: bytes of each.
        mode: ``"offline"``: all requests are there at the start, or ``"online"``.
        wish: how to plan; its ``offline`` is the mode's.
    """

    gpus: int
    gpus_per_server: int = 4
    gpu_memory: int = 80 * 10**9
    mode: str = "offline"
    wish: Wish = field(default_factory=Wish)
    _config: Config | None = None
    _workload: Workload | None = None
    _planned: Planned | None = None

    def load_config(self, path: Path) -> None:
        """Read models and workflows.

        Raises:
            SettingsError: anything is wrong with them.
        """
        faults = Faults()
        self._config = read_config(path, faults)
        faults.tell()

    def load_requests(self, path: Path) -> None:
        """Read requests; after the configuration.

        Raises:
            SettingsError: anything is wrong with them.
        """
        if self._config is None:
            raise SettingsError("load_requests: load the configuration first")
        self._workload = read_requests(path, self._config, Faults())

    @property
    def workload(self) -> Workload:
        """What was read.

        Raises:
            SettingsError: nothing was.
        """
        if self._workload is None:
            raise SettingsError("load the configuration and the requests first")
        return self._workload

    def analyze_workflow_patterns(self) -> Analysis:
        """Usage, co-occurrence and frequency."""
        problem = self.workload.problem(uniform(self.gpus, self.gpus_per_server, self.gpu_memory))
        names, found, work = self.workload.model_names, patterns_of(problem), problem.work
        pairs = sorted(found.together.items(), key=lambda pair: (-pair[1], pair[0]))
        return Analysis(
            {names[model]: count for model, count in found.usage.items()},
            tuple(
                ModelAffinity(names[a], names[b], count, float(work[a] + work[b])) for (a, b), count in pairs if a != b
            ),
            {self.workload.workflow_names[one]: count for one, count in found.frequency.items()},
        )

    def assign_models_to_gpus(self) -> Plan:
        """Find the plan.

        Raises:
            InfeasibleError: there is no room.
        """
        wish = Wish(self.wish.aim, self.wish.exclusive, self.mode == "offline", self.wish.effort, self.wish.seed)
        cluster = uniform(self.gpus, self.gpus_per_server, self.gpu_memory)
        self._planned = make_plan(self.workload, cluster, wish)
        return self._planned.plan

    def run(self) -> Planned:
        """The plan and its simulation."""
        if self._planned is None:
            self.assign_models_to_gpus()
        assert self._planned is not None
        return self._planned

    @property
    def devices(self) -> tuple[DeviceState, ...]:
        """Each device after all requests."""
        rows = device_rows(self.run())
        return tuple(
            DeviceState(row.gpu, row.server, frozenset(row.models), row.busy_s, row.executions, row.utilization)
            for row in rows
        )

    @property
    def servers(self) -> tuple[ServerInfo, ...]:
        """Each server with its models."""
        cluster = self.run().problem.cluster
        devices = self.devices
        return tuple(
            ServerInfo(number, tuple(one), frozenset().union(*(devices[gpu].assigned_models for gpu in one)))
            for number, one in enumerate(cluster.servers)
        )
