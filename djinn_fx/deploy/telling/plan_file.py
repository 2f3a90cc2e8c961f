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
        replicas = tuple(sorted(_replica(one, number) for one in parts["replicas"].items("replicas")))
        discipline = Discipline(**parts["discipline"].plain)
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{path}: a plan lacks or misspells {error}") from error
    return Plan(replicas, discipline, str(path)), cluster


def weighed_by(path: Path, config: Config) -> Config:
    """A configuration whose models without a memory of their own have that of a plan's file."""
    top = read_file(path, "a plan")
    told = top.plain.get("models", {}) if top is not None else {}
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


def _cluster(value: dict[str, Any]) -> Cluster:
    return Cluster(
        tuple(map(int, value["servers"])),
        tuple(map(int, value["memory_bytes"])),
        tuple(map(float, value["slowness"])),
        float(value["latency_s"]),
        float(value["bandwidth_bytes_s"]),
    )


def _replica(entry: Entry, number: dict[str, int]) -> Replica:
    parts = entry.mapping("a copy")
    name = parts["model"].text("a copy's model")
    if name not in number:
        raise parts["model"].error(f"unknown model {name!r}{did_you_mean(name, number)}")
    return Replica(number[name], int(parts["gpu_ids"].items("gpu_ids")[0].value))
