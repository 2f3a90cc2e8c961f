"""Servers of devices as the command line and files describe them."""

from __future__ import annotations

from pathlib import Path

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.topology.file import read_topology
from djinn_fx.hardware.topology.topology import Topology
from djinn_fx.solvers.deployment.problem import Cluster

#: What is sent to learn how fast servers are joined, in bytes.
_SMALL, _LARGE = 1, 10**9
#: Devices at most.
MOST = 2**16


def uniform(devices: int, per_server: int, memory: int) -> Cluster:
    """Devices that are alike.

    Raises:
        SettingsError: there is none of them, or more than are planned for.
    """
    if devices < 1 or per_server < 1:
        raise SettingsError(f"--gpus {devices} --gpus-per-server {per_server}: both must be at least 1")
    if devices > MOST:
        raise SettingsError(f"--gpus {devices}: {MOST} at most are planned for")
    return Cluster.uniform(devices, per_server, memory)


def from_topology(path: Path) -> Cluster:
    """Each host of a topology is a server with its devices, GPUs where it has any.

    Links between servers are taken to be as slow as the slowest of them.

    Raises:
        SettingsError: the file is none, or has no host with devices.
    """
    topology = read_topology(path)
    hosts: dict[str, list[str]] = {}
    for name, device in topology.devices.items():
        node = topology.node(name)
        if node.host and device.kind != "cpu":
            hosts.setdefault(node.host, []).append(name)
    if not hosts:
        for name in topology.devices:
            hosts.setdefault(topology.node(name).host or name, []).append(name)
    if not hosts:
        raise SettingsError(f"{path}: no host of the topology has devices")
    server, memory, fastest = [], [], []
    for number, names in enumerate(hosts.values()):
        for name in names:
            device = topology.devices[name]
            server.append(number)
            memory.append(device.memory_bytes)
            fastest.append(device.peak("float16"))
    best = max(fastest)
    latency, bandwidth = _between(topology, [names[0] for names in hosts.values()])
    return Cluster(tuple(server), tuple(memory), tuple(best / one for one in fastest), latency, bandwidth)


def _between(topology: Topology, ends: list[str]) -> tuple[float, float]:
    """Seconds and bytes a second between servers, of the two that are furthest apart."""
    latency = slowest = 0.0
    for source in ends:
        for target in ends:
            if source != target:
                small = topology.transfer(source, target, _SMALL).time_s
                large = topology.transfer(source, target, _LARGE).time_s
                latency, slowest = max(latency, small), max(slowest, large)
    return latency, _LARGE / slowest if slowest else 0.0
