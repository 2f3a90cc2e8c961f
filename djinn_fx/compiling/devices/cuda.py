"""What the passes are told of the CUDA devices that the settings name, and which graphs are not spread over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from djinn_fx.compiling.pricing import pricing_for
from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import default_device, known_device
from djinn_fx.hardware.cuda import cuda_topology
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.passes.base import Pass
from djinn_fx.passes.placing.request import Placing, PricedDevice
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.devices.cuda.driver import DRIVER, Driver
from djinn_fx.settings.devices import CudaDevice, Pin
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import GraphKind


def not_spread(why: str, told: Sequence[Reason] = ()) -> Placing:
    """A graph stays on the device of its tensors, and this is why."""
    reason = Reason(kind=ReasonKind.PLACED, detail=f"not spread over the devices of the settings: {why}")
    return Placing(devices=(), topology=TopologyBuilder("devices").build(), told=(*told, reason))


def cuda_placing(
    settings: Settings,
    passes: Sequence[Pass],
    devices: Sequence[CudaDevice],
    kind: GraphKind,
    home: str,
    pins: Sequence[Pin] = (),
    told: Sequence[Reason] = (),
    driver: Driver | None = None,
) -> Placing:
    """What the passes are to keep to for a graph.

    Args:
        settings: in force.
        passes: the pipeline.
        devices: those that are left of the named ones.
        kind: of the graph.
        home: the device that its tensors are on.
        pins: to these devices.
        told: what is to be told of devices that are lost.
        driver: through which devices are reached; None: this machine's.

    Raises:
        SettingsError: a device is not here.
    """
    driver = DRIVER if driver is None else driver
    present = driver.present()
    for device in devices:
        if device.index >= len(present):
            there = ", ".join(f"cuda:{place} ({one.title})" for place, one in enumerate(present))
            raise SettingsError(f"devices: there is no {device.name} here; torch finds {there or 'no CUDA device'}")
    known = {one.name: one for one in devices}
    if home not in known:
        return not_spread(
            f"its tensors are on {home}, which is none of {', '.join(known) or 'those that are left'}", told
        )
    if kind is not GraphKind.INFERENCE:
        return not_spread(f"a {kind.value} graph keeps values for the other one on {home}", told)
    ordered = [known[home], *(one for one in devices if one.name != home)]  # of equals the first is taken
    titles = {one.name: present[one.index].title for one in ordered}
    rows = {name: known_device(title) or default_device("cuda") for name, title in titles.items()}
    pricings = {row.name: pricing_for(settings, "cuda", passes, row) for row in rows.values()}

    def memory(device: CudaDevice) -> int | None:
        # Weights are at home in any case: that they fit is not to be decided here.
        return device.memory_bytes or (None if device.name == home else present[device.index].memory_bytes)

    return Placing(
        devices=tuple(
            PricedDevice(
                name=one.name,
                memory_bytes=memory(one),
                pricing=replace(pricings[rows[one.name].name], device=rows[one.name]),
                here=True,
            )
            for one in ordered
        ),
        topology=cuda_topology(rows, lambda one, other: driver.peers(known[one].index, known[other].index)),
        pins=tuple(pins),
        objective=settings.objective,
        told=(*told, *_assumed(titles)),
        home=home,
    )


def _assumed(titles: Mapping[str, str]) -> Iterator[Reason]:
    for name, title in titles.items():
        if known_device(title) is None:
            detail = f"{title!r} ({name}) has no row: priced as {default_device('cuda').name}"
            yield Reason(kind=ReasonKind.ASSUMED, detail=detail)
