"""CUDA devices of this machine as a topology: rows of the catalogue, and links by what the driver allows.

Where the driver lets two devices read each other's memory, they are joined as GPUs of their sort are in a well-known
machine; else, and from host to device, values pass through the host's memory. Imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import LinkClass, find_link_class
from djinn_fx.hardware.topology.presets import PRESETS
from djinn_fx.hardware.topology.topology import Topology, cheapest

#: How a GPU hangs on its host where no well-known machine has one of its sort.
_COMMON = "pcie4-x16"
#: The host's memory, as a node.
HOST = "host"


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How GPUs of a sort are joined: to each other, and to their host."""

    peer: LinkClass
    host: LinkClass


@functools.cache
def wiring_of(row: str) -> Wiring:
    """As in the first well-known machine that has such GPUs, else by PCIe.

    Args:
        row: the catalogue's name for the GPU.
    """
    for name, (make, _) in PRESETS.items():
        if name.startswith(("this-", "two-")):
            continue
        topology = make()
        gpus = [node for node, device in topology.devices.items() if device.name == row]
        if len(gpus) > 1:
            return Wiring(peer=_as_one(topology, gpus[0], gpus[1], name), host=_as_one(topology, HOST, gpus[0], name))
    common = find_link_class(_COMMON)
    return Wiring(peer=common, host=common)


def _as_one(topology: Topology, source: str, target: str, preset: str) -> LinkClass:
    """A way through a topology as one link."""
    links = cheapest(topology.paths, source, target, 1 << 20).route.links
    slowest = min(links, key=lambda link: link.bandwidth_bytes_s)
    return LinkClass(
        name=slowest.kind,
        kind=slowest.kind,
        bandwidth_bytes_s=slowest.bandwidth_bytes_s,
        latency_s=sum(link.latency_s for link in links),
        source=f"as in {preset}: {topology.source}",
    )


def cuda_topology(devices: Mapping[str, Device], peers: Callable[[str, str], bool]) -> Topology:
    """These devices around their host.

    Args:
        devices: the row of each, by name.
        peers: whether the first of two can read the second one's memory.
    """
    wirings = {name: wiring_of(row.name) for name, row in devices.items()}
    sources = dict.fromkeys(one.source for wiring in wirings.values() for one in (wiring.peer, wiring.host))
    build = TopologyBuilder("devices", "peer access by the driver; links " + "; ".join(sources))
    host = build.host(HOST)
    for name, row in devices.items():
        build.connect(build.device(name, row, host), host, wirings[name].host)
    names = list(devices)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            if peers(one, other) and peers(other, one):
                slower = min((wirings[one].peer, wirings[other].peer), key=lambda link: link.bandwidth_bytes_s)
                build.connect(one, other, slower)
    return build.build()
