"""What the parts of the bench of plans share: workloads, and how a run is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.requests import read_requests
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.solvers.deployment.measures import Measures, measure
from djinn_fx.solvers.deployment.problem import Cluster, Plan, Problem
from djinn_fx.solvers.deployment.simulate import simulate

GB = 10**9
FILES = {"simple": ("simple_config.json", "simple_requests.yaml"),
         "complex": ("complex_config.yaml", "complex_requests.json")}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Data:
    """The workloads by name."""

    simple: Workload
    complex: Workload

    def problem(
        self, name: str, devices: int, per_server: int, *, memory: int = 80, exclusive: bool = False
    ) -> Problem:
        """A cell."""
        workload = self.simple if name == "simple" else self.complex
        return workload.problem(Cluster.uniform(devices, per_server, memory * GB), exclusive=exclusive)


def read(folder: Path) -> Data:
    """Configurations and requests of a folder."""
    found = []
    for config, requests in FILES.values():
        faults = Faults()
        found.append(read_requests(folder / requests, read_config(folder / config, faults), faults))
    return Data(*found)


def simulated(problem: Problem, plan: Plan) -> Measures:
    """What a plan comes to."""
    return measure(problem, plan, simulate(problem, plan))


def row(name: str, found: Measures, bound: float) -> list[str]:
    """A line of a table of :data:`HEADERS`."""
    return [name, f"{found.makespan:.0f}", f"{found.makespan / bound:.4f}", f"{found.p99:.0f}",
            f"{found.efficiency:.0f}", str(found.crossings)]  # fmt: skip


HEADERS = ("cell", "makespan", "of bound", "P99", "SE %", "CSC")
