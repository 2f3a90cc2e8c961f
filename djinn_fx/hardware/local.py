"""Some of this machine's processors as a device: its row follows from the machine's. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from djinn_fx.hardware.device import Device
from djinn_fx.hardware.machine import probe_machine
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import LinkClass
from djinn_fx.hardware.topology.topology import Topology
from djinn_fx.settings.devices import DeclaredLink, LocalDevice

#: Seconds from the end of a region on one device to the beginning of the next one on another: a thread wakes up. The
#: order of magnitude on an idle machine (bench/placement/boundary.py).
HANDOFF_S = 30e-6

#: Two devices of one machine between which no link was declared: a value is handed over where it lies.
_BY_REFERENCE = LinkClass(
    name="shared-memory",
    kind="shared-memory",
    bandwidth_bytes_s=math.inf,
    latency_s=HANDOFF_S,
    source="nothing moves: both devices are threads of one process",
)
_DECLARED = LinkClass(
    name="declared", kind="declared", bandwidth_bytes_s=math.inf, latency_s=0.0, source="the setting `links`"
)


def device_row(device: LocalDevice, machine: Device) -> Device:
    """The row of a device: the machine's share by processors, and the memory that it was given.

    Bandwidth is shared likewise: devices that run at once take it from each other.
    """
    share = min(1.0, len(device.cores) / max(1, probe_machine().threads))
    return replace(
        machine,
        name=device.name,
        peak_flops=MappingProxyType({dtype: rate * share for dtype, rate in machine.peak_flops.items()}),
        bandwidth_bytes_s=machine.bandwidth_bytes_s * share,
        memory_bytes=machine.memory_bytes if device.memory_bytes is None else device.memory_bytes,
        processors=max(1, round(machine.processors * share)) if machine.processors else 0,
        source=f"{len(device.cores)} of {probe_machine().threads} processors of {machine.name}: {machine.source}",
        aliases=(),
    )


def local_topology(devices: Sequence[LocalDevice], links: Sequence[DeclaredLink], machine: Device) -> Topology:
    """These devices and what lies between them: a declared link, or nothing but a thread that wakes up."""
    build = TopologyBuilder("devices", "the setting `devices`")
    for device in devices:
        build.device(device.name, device_row(device, machine), "this-machine")
    declared = {frozenset(link.ends): link for link in links}
    for place, one in enumerate(devices):
        for other in devices[place + 1 :]:
            link = declared.get(frozenset((one.name, other.name)))
            if link is None:
                build.connect(one.name, other.name, _BY_REFERENCE)
            else:
                build.connect(
                    *link.ends,
                    _DECLARED,
                    bandwidth_bytes_s=link.bandwidth_bytes_s,
                    latency_s=link.latency_s + HANDOFF_S,
                )
    return build.build()
