"""A plan as a configuration of Ray Serve (``serve deploy FILE``).

A model's copies in one server are one deployment. A gang is a STRICT_PACK placement group, and which server is a label
of its nodes, ``djinn-server``. A copy takes as much of a GPU as of its memory, so what shares a device fits; that a
device runs one node at a time is a promise of the plan that Serve does not keep.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from djinn_fx.deploy.reading.workload import Config
from djinn_fx.deploy.serving.ray_app import ROUTER, deployment_name
from djinn_fx.errors import SettingsError
from djinn_fx.solvers.deployment.problem import Cluster, Plan

LABEL, GPU = "djinn-server", "GPU"


def content(
    config: Config, plan: Plan, cluster: Cluster, *, resource: str = GPU, compiled: bool = True
) -> dict[str, Any]:
    """The configuration as a JSON value.

    Args:
        config: models with their entries, and workflows.
        plan: where copies are.
        cluster: the devices.
        resource: what a device is called: ``GPU``, or a resource of one's own.
        compiled: whether models run compiled by the backend "djinn".

    Raises:
        SettingsError: a model that has a copy has no entry.
    """
    names = list(config.models)
    placed = Counter((names[one.model], cluster.server[one.first]) for one in plan.replicas)
    without = sorted({model for model, _ in placed if not config.models[model].entry})
    if without:
        raise SettingsError(
            f"{config.models[without[0]].place or config.file}: Ray Serve has to be told what to load: give `entry` "
            f"(package.module:name) to {', '.join(without)}"
        )
    models: dict[str, Any] = {}
    for model, server in sorted(placed):
        models.setdefault(model, {"entry": config.models[model].entry, "servers": []})["servers"].append(server)
    deployments = [
        _deployment(config, cluster, model, server, count, resource)
        for (model, server), count in sorted(placed.items())
    ]
    workflows = {
        name: [{"name": one.name, "model": one.model, "before": list(one.before)} for one in nodes]
        for name, nodes in config.workflows.items()
        if all(one.model in models for one in nodes)
    }
    application = {
        "name": "djinn",
        "route_prefix": "/",
        "import_path": "djinn_fx.deploy.serving.ray_app:build",
        "args": {"models": models, "workflows": workflows, "compiled": compiled},
        "deployments": [*deployments, {"name": ROUTER, "num_replicas": 1}],
    }
    return {"applications": [application]}


def _deployment(config: Config, cluster: Cluster, model: str, server: int, count: int, resource: str) -> dict[str, Any]:
    info = config.models[model]
    memory = min(cluster.memory[device] for device in cluster.servers[server])
    # Ray counts in ten-thousandths; rounded down, so that what fits by bytes fits by shares.
    part = max(0.0001, math.floor(10_000 * -(-info.memory // info.gang) / memory) / 10_000)
    label = {LABEL: str(server)}
    made: dict[str, Any] = {
        "name": deployment_name(model, server),
        "num_replicas": count,
        "max_ongoing_requests": 1,
        "ray_actor_options": {"num_cpus": 0.0},
    }
    if info.gang == 1:
        options = {"num_gpus": part} if resource == GPU else {"resources": {resource: part}}
        made["ray_actor_options"] |= {**options, "label_selector": label}
    else:
        made["placement_group_bundles"] = [{resource: part} for _ in range(info.gang)]
        made["placement_group_strategy"] = "STRICT_PACK"
        made["placement_group_bundle_label_selector"] = [label] * info.gang
        made["ray_actor_options"] |= {"num_gpus": part} if resource == GPU else {"resources": {resource: part}}
    return made
