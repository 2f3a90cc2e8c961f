"""A plan as Kubernetes manifests: a pod for each copy, its devices claimed by Dynamic Resource Allocation.

A copy's claim (``resource.k8s.io/v1``) asks for as many whole devices as its gang has, on a node with the label of its
server. Copies of one server start together or not at all: a PodGroup (``scheduling.x-k8s.io/v1alpha1``, the
coscheduling plugin). Devices that several models share need claims of parts, which drivers name differently: such plans
are refused. Built, not run: no cluster was at hand.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from djinn_fx.deploy.reading.workload import Config
from djinn_fx.errors import SettingsError
from djinn_fx.solvers.deployment.problem import Cluster, Plan

LABEL, SCHEDULER, PORT = "djinn.dev/server", "scheduler-plugins-scheduler", 8000


def manifests(
    config: Config, plan: Plan, cluster: Cluster, *, image: str, device_class: str = "gpu.nvidia.com"
) -> dict[str, list[dict[str, Any]]]:
    """Documents by the name of the file that they are for.

    Args:
        config: models with their entries.
        plan: where copies are, one model a device.
        cluster: the devices.
        image: with djinn-fx and the entries' modules.
        device_class: of the devices, as the cluster's driver calls it.

    Raises:
        SettingsError: a device hosts two copies, or a model has no entry.
    """
    names = list(config.models)
    on = Counter(d for one in plan.replicas for d in range(one.first, one.first + config.models[names[one.model]].gang))
    shared = sorted(device for device, count in on.items() if count > 1)
    if shared:
        raise SettingsError(f"GPU {shared[0]} hosts several models: plan with --exclusive to emit whole-device claims")
    found: dict[str, list[dict[str, Any]]] = {}
    gangs = sorted({config.models[names[one.model]].gang for one in plan.replicas})
    found["claims.yaml"] = [_claim(gang, device_class) for gang in gangs]
    for server in sorted({cluster.server[one.first] for one in plan.replicas}):
        mine = [one for one in plan.replicas if cluster.server[one.first] == server]
        documents = [_group(server, len(mine))]
        for one in mine:
            info = config.models[names[one.model]]
            if not info.entry:
                raise SettingsError(f"{info.place or config.file}: model {info.name!r} has no `entry` to run")
            documents.append(_pod(info.name, info.entry, info.gang, one.first, server, image))
        found[f"server-{server}.yaml"] = documents
    return found


def _claim(gang: int, device_class: str) -> dict[str, Any]:
    request = {
        "name": "gang",
        "exactly": {"deviceClassName": device_class, "allocationMode": "ExactCount", "count": gang},
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": f"djinn-gang-{gang}"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def _group(server: int, members: int) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": {"name": f"djinn-server-{server}"},
        "spec": {"minMember": members},
    }


def _pod(model: str, entry: str, gang: int, first: int, server: int, image: str) -> dict[str, Any]:
    name = "".join(letter if letter.isalnum() else "-" for letter in model.lower()).strip("-")[:40]
    labels = {"app": "djinn", "djinn.dev/model": name, "scheduling.x-k8s.io/pod-group": f"djinn-server-{server}"}
    container = {
        "name": "model",
        "image": image,
        "command": ["python", "-m", "djinn_fx.deploy.serving.host", entry, "--host", "0.0.0.0", "--port", str(PORT)],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}},
        "resources": {"claims": [{"name": "gang"}]},
    }
    spec = {
        "schedulerName": SCHEDULER,
        "nodeSelector": {LABEL: str(server)},
        "containers": [container],
        "resourceClaims": [{"name": "gang", "resourceClaimTemplateName": f"djinn-gang-{gang}"}],
    }
    metadata = {"name": f"{name}-gpu-{first}", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
