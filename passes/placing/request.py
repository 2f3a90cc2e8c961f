"""What a plan for several devices is to keep to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.hardware.topology.topology import Topology, Transfer
from djinn_fx.reasons import Reason
from djinn_fx.settings.devices import LocalDevice, Pin


@dataclass(frozen=True, kw_only=True)
class PricedDevice:
    """A device with memory of its own, priced by its row: one of a topology that is not here, or a CUDA device that is.

    Attributes:
        name: in its topology.
        memory_bytes: what its part of a model may take.
        pricing: by what regions there are priced.
        here: whether it is in this machine.
    """

    name: str
    memory_bytes: int | None
    pricing: Pricing
    here: bool = False


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Devices that a graph may be spread over, and how.

    Attributes:
        devices: all of them here, or none; none at all where all are lost: the graph then stays on one device.
        topology: what lies between them.
        pins: what the user wants where.
        objective: ``"latency"`` or ``"throughput"``, see the setting.
        whole: whether engines would have each device's part in one piece.
        threads: processors that the graph's times are for, where the devices are here.
        followed: of a backward graph: the device of each forward op, by its number in autograd's sequence.
        told: what is to be told of devices that are not among these any more.
        settled: devices of weights and state that an earlier graph keeps there, by the names of the graph's inputs.
        home: the device that the graph's tensors are on, where it is to run here.
        abroad: whether none of the devices is that one: they keep what the graph writes too.
    """

    devices: tuple[LocalDevice | PricedDevice, ...]
    topology: Topology
    pins: tuple[Pin, ...] = ()
    objective: str = "latency"
    whole: bool = False
    threads: int = 1
    followed: Mapping[int, str] = field(default_factory=dict)
    told: tuple[Reason, ...] = ()
    settled: Mapping[str, str] = field(default_factory=dict)
    home: str = "cpu"
    abroad: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the devices."""
        return tuple(device.name for device in self.devices)

    @property
    def elsewhere(self) -> bool:
        """Whether the devices are not here."""
        return any(isinstance(device, PricedDevice) and not device.here for device in self.devices)

    @property
    def apart(self) -> bool:
        """Whether they are here, each with memory of its own: what comes in and goes out is on ``home``."""
        return not self.abroad and any(isinstance(one, PricedDevice) and one.here for one in self.devices)

    @property
    def pricings(self) -> Mapping[str, Pricing]:
        """By what regions are priced, by device; empty where the graph's own pricing holds."""
        return {one.name: one.pricing for one in self.devices if isinstance(one, PricedDevice)}

    def strength(self, place: int) -> float:
        """How much a device does in a second, beside the others."""
        device = self.devices[place]
        return len(device.cores) if isinstance(device, LocalDevice) else device.pricing.device.peak("float32")

    def transfer(self, source: str, target: str, nbytes: int) -> Transfer:
        """What passing a value from one device to another takes."""
        return self.topology.transfer(source, target, nbytes)

    def moving_s(self, source: str, target: str, nbytes: int) -> float:
        """Seconds that values take from one device to another."""
        return self.transfer(source, target, nbytes).time_s if source != target else 0.0
