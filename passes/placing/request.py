"""What a plan for several devices is to keep to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from djinn_fx.hardware.topology.topology import Topology
from djinn_fx.reasons import Reason
from djinn_fx.settings.devices import LocalDevice, Pin


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Devices that a graph may be spread over, and how.

    Attributes:
        devices: none where all are lost: the graph then stays on one device.
        topology: what lies between them.
        pins: what the user wants where.
        objective: ``"latency"`` or ``"throughput"``, see the setting.
        whole: whether engines would have each device's part in one piece.
        threads: processors that the graph's times are for.
        followed: of a backward graph: the device of each forward op, by its number in autograd's sequence.
        told: what is to be told of devices that are not among these any more.
    """

    devices: tuple[LocalDevice, ...]
    topology: Topology
    pins: tuple[Pin, ...] = ()
    objective: str = "latency"
    whole: bool = False
    threads: int = 1
    followed: Mapping[int, str] = field(default_factory=dict)
    told: tuple[Reason, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the devices."""
        return tuple(device.name for device in self.devices)

    def moving_s(self, source: str, target: str, nbytes: int) -> float:
        """Seconds that values take from one device to another."""
        return self.topology.transfer(source, target, nbytes).time_s if source != target else 0.0
