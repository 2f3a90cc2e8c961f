"""The arguments of the commands, and what they name read."""

from __future__ import annotations

import argparse
from pathlib import Path

from djinn_fx.command_line import add_json
from djinn_fx.deploy.cluster import from_topology, uniform
from djinn_fx.deploy.planning import Wish
from djinn_fx.deploy.reading.comfyui import with_comfyui
from djinn_fx.deploy.reading.config import read_config
from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.muxserve import is_muxserve, read_muxserve, requests_at_rates
from djinn_fx.deploy.reading.requests import read_requests
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.errors import SettingsError, UnitError
from djinn_fx.solvers.deployment.problem import Cluster
from djinn_fx.solvers.deployment.search import EFFORT, Aim
from djinn_fx.units import parse_bytes

CONFIG, REQUESTS, GPU_MEMORY, PER_SERVER = "simple_config.json", "simple_requests.yaml", "80GB", 4


def add_input(made: argparse.ArgumentParser, *, requests: bool = True) -> None:
    """What is to be served."""
    made.add_argument("--config", type=Path, default=Path(CONFIG), help=f"models and workflows (default: {CONFIG})")
    made.add_argument("--comfyui", type=Path, action="append", default=[], help="a workflow of ComfyUI's; repeatable")
    if requests:
        made.add_argument("--requests", type=Path, default=None, help=f"requests (default: {REQUESTS})")
        made.add_argument("--first", type=int, metavar="N", help="only the first N requests of the file")
        made.add_argument("--minutes", type=float, default=10.0, help="of requests, where a file gives rates only")
        made.add_argument(
            "--mode", choices=("offline", "online"), default="offline", help="all requests at once, or at their times"
        )


def add_devices(made: argparse.ArgumentParser) -> None:
    """Where it is to be served."""
    made.add_argument("--gpus", type=int, help="how many devices")
    made.add_argument("--gpus-per-server", type=int, default=PER_SERVER, help=f"default: {PER_SERVER}")
    made.add_argument("--gpu-memory", default=GPU_MEMORY, help=f"of each device (default: {GPU_MEMORY})")
    made.add_argument("--topology", type=Path, help="servers, devices and links from a djinn.yaml instead")


def add_search(made: argparse.ArgumentParser) -> None:
    """How to plan."""
    made.add_argument("--objective", choices=[*(aim.value for aim in Aim), "devices"], default=Aim.MAKESPAN.value)
    made.add_argument("--slo-p99", type=float, metavar="SECONDS", help="with --objective devices: what P99 must keep")
    made.add_argument("--exclusive", action="store_true", help="one model a device")
    made.add_argument("--replicas", default="auto", metavar="N", help="copies of a model at most (default: auto)")
    made.add_argument(
        "--exact", type=float, metavar="SECONDS", help="also prove the least load of the busiest device (extra `solve`)"
    )
    made.add_argument("--effort", type=int, default=EFFORT, help=f"node executions to simulate (default: {EFFORT})")
    made.add_argument("--seed", type=int, default=0)
    add_json(made, "the plan")
    made.add_argument("--html", metavar="FILE", help="write a page with a Gantt chart")


def workload_of(arguments: argparse.Namespace, *, data: bool = False) -> Workload:
    """Configuration and requests, read.

    Args:
        arguments: as :func:`add_input` adds them.
        data: also what requests give to models.

    Raises:
        SettingsError: anything is wrong with them, all of it in one error.
    """
    if arguments.first is not None and arguments.first < 1:
        raise SettingsError(f"--first {arguments.first}: give a number of at least 1")
    faults = Faults()
    if is_muxserve(arguments.config):
        config, rates = read_muxserve(arguments.config, faults)
        if arguments.requests is None:
            faults.tell()
            if not any(rates.values()):
                raise SettingsError(f"{arguments.config}: no model has a rate: give one, or --requests FILE")
            return requests_at_rates(config, rates, 60 * arguments.minutes)
    else:
        config = read_config(arguments.config, faults, workflows=not arguments.comfyui)
    config = with_comfyui(config, arguments.comfyui, faults)
    return read_requests(arguments.requests or Path(REQUESTS), config, faults, first=arguments.first, data=data)


def cluster_of(arguments: argparse.Namespace) -> Cluster:
    """The devices.

    Raises:
        SettingsError: none are named.
    """
    if arguments.topology is not None:
        return from_topology(arguments.topology)
    if arguments.gpus is None:
        raise SettingsError("--gpus N, or --topology FILE: how many devices are there?")
    try:
        memory = parse_bytes(arguments.gpu_memory)
    except UnitError as error:
        raise SettingsError(f"--gpu-memory: {error}") from error
    return uniform(arguments.gpus, arguments.gpus_per_server, memory)


def wish_of(arguments: argparse.Namespace) -> Wish:
    """How to plan; the fewest devices are looked for by P99."""
    aim = Aim.P99 if arguments.objective == "devices" else Aim(arguments.objective)
    word = arguments.replicas
    if word != "auto" and not (word.isdecimal() and int(word) > 0):
        raise SettingsError(f"--replicas {word}: give a number of at least 1, or auto")
    if arguments.effort < 0:
        raise SettingsError(f"--effort {arguments.effort}: give a number of at least 0")
    copies = None if word == "auto" else int(word)
    return Wish(aim, arguments.exclusive, arguments.mode == "offline", arguments.effort, arguments.seed, copies)
