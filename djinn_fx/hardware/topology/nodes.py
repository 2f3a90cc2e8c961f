"""The places that links lead to. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.links import Serialisation

#: What a node does with data for others: nothing; passes each byte on as it comes (switches, PCIe roots); or waits
#: until everything has arrived (host memory: a tensor is copied there whole before it is sent on).
FORWARDING = ("none", "cut-through", "store-and-forward")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A place that links lead to.

    Attributes:
        name: unique; a device's is usually ``host/device``.
        host: name of the host it belongs to; empty for what stands between hosts.
        device: what computes there; None for switches, and for host memory that nothing is to run on.
        forwarding: one of :data:`FORWARDING`.
        serialisation: what messages cost that this node's host makes or reads; None: the default.
    """

    name: str
    host: str = ""
    device: Device | None = None
    forwarding: str = "none"
    serialisation: Serialisation | None = None

    def __post_init__(self) -> None:
        assert self.forwarding in FORWARDING, self.forwarding
