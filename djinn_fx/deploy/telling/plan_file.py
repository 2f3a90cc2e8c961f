"""A plan as a file, which other commands read again. Its JSON Schema lies beside this file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.reading.config import read_file
from djinn_fx.deploy.reading.workload import Config
from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.hardware.yaml_places import Entry
from djinn_fx.solvers.deployment.problem import Cluster, Discipline, Plan, Replica

SCHEMA = "djinn.deploy.plan/1"


def content(planned: Planned) -> dict[str, Any]:
    """The plan as a JSON value."""
    cluster, workload = planned.problem.cluster, planned.workload
    names = workload.model_names
    return {
        "schema": SCHEMA,
        "config": workload.config.file,
        "cluster": {
            "servers": list(cluster.server),
            "memory_bytes": list(cluster.memory),
            "slowness": list(cluster.slowness),
            "latency_s": cluster.latency,
            "bandwidth_bytes_s": cluster.bandwidth,
        },
        "exclusive": planned.problem.exclusive,
        "models": {
            info.name: {
                "memory_bytes": info.memory,
                "gpus": info.gang,
                "load_s": info.load_s,
                "expected_s": info.expected_s,
                "entry": info.entry,
                **({"price": asdict(info.price)} if info.price is not None else {}),
            }
            for info in workload.config.models.values()
        },
        "replicas": [
            {
                "model": names[one.model],
                "gpu_ids": list(range(one.first, one.first + planned.problem.models[one.model].gang)),
                "server_id": cluster.server[one.first],
            }
            for one in planned.plan.replicas
        ],
        "discipline": asdict(planned.plan.discipline),
        "found_by": planned.plan.found_by,
        "measures": asdict(planned.measures),
        "bounds": asdict(planned.bounds),
        "front": [
            {"makespan": one.measures.makespan, "p99": one.measures.p99, "crossings": one.measures.crossings}
            for one in (planned.found.front if planned.found is not None else ())
        ],
    }


def text(planned: Planned) -> str:
    """The file's text."""
    return json.dumps(content(planned), indent=1)


def read_plan(path: Path, config: Config) -> tuple[Plan, Cluster]:
    """A plan for a configuration's models, and the devices that it is for.

    Raises:
        SettingsError: it is none, or names a model that the configuration has not; with file and line.
    """
    top = read_file(path, "a plan")
    parts = top.mapping("a plan") if top is not None else {}
    if top is None or "schema" not in parts or parts["schema"].value != SCHEMA:
        raise SettingsError(f"{path}: this is no plan; `djinn deploy plan --json FILE` writes one ({SCHEMA})")
    try:
        cluster = _cluster(parts["cluster"].plain)
        number = {name: n for n, name in enumerate(config.models)}
        replicas = tuple(sorted(_replica(one, number, cluster, config) for one in parts["replicas"].items("replicas")))
        discipline = _discipline(parts["discipline"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path}: a plan lacks or misspells {error}") from error
    return Plan(replicas, discipline, str(path)), cluster


def weighed_by(path: Path, config: Config) -> Config:
    """A configuration whose models without a memory of their own have that of a plan's file."""
    top = read_file(path, "a plan")
    parts = top.mapping("a plan") if top is not None else {}
    told = parts["models"].plain if "models" in parts else {}
    if not isinstance(told, dict):
        raise parts["models"].error("models: expected keys and values")
    models = {
        name: replace(one, memory=int(told[name]["memory_bytes"]), weighed=True)
        if not one.weighed and name in told
        else one
        for name, one in config.models.items()
    }
    return replace(config, models=models)


def is_exclusive(path: Path) -> bool:
    """Whether a plan was made for one model a device."""
    top = read_file(path, "a plan")
    parts = top.mapping("a plan") if top is not None else {}
    return "exclusive" in parts and parts["exclusive"].value is True


def _discipline(entry: Entry) -> Discipline:
    found = Discipline(**entry.plain)
    if type(found.hold) is not int or found.hold < 0 or {type(found.local), type(found.by_path)} != {bool}:
        raise entry.error("discipline: hold is a number of at least 0, local and by_path are true or false")
    return found


def _cluster(value: dict[str, Any]) -> Cluster:
    servers = tuple(map(int, value["servers"]))
    # Servers are counted: a number of one that is not there would be as many lists of devices.
    if not servers or list(servers) != sorted(servers) or not 0 <= servers[0] <= servers[-1] < len(servers):
        raise ValueError("servers: a number from 0 for each device, in order")
    return Cluster(
        servers,
        tuple(map(int, value["memory_bytes"])),
        tuple(map(float, value["slowness"])),
        float(value["latency_s"]),
        float(value["bandwidth_bytes_s"]),
    )


def _replica(entry: Entry, number: dict[str, int], cluster: Cluster, config: Config) -> Replica:
    parts = entry.mapping("a copy")
    name = parts["model"].text("a copy's model")
    if name not in number:
        raise parts["model"].error(f"unknown model {name!r}{did_you_mean(name, number)}")
    devices = [one.value for one in parts["gpu_ids"].items("gpu_ids")]
    if not devices or any(type(one) is not int or not 0 <= one < cluster.size for one in devices):
        raise parts["gpu_ids"].error(f"gpu_ids of {name!r}: numbers from 0 to {cluster.size - 1} are wanted")
    gang = config.models[name].gang
    if devices != list(range(devices[0], devices[0] + gang)):
        raise parts["gpu_ids"].error(f"gpu_ids of {name!r}: {gang} that follow each other are wanted")
    return Replica(number[name], devices[0])
