"""Planning for devices that are not here: what the passes are told of them, and a graph that is planned and not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.fx import GraphModule

from djinn_fx.compiling.pricing import pricing_for
from djinn_fx.costmodels.choose import topology_of
from djinn_fx.errors import SettingsError
from djinn_fx.passes.base import Pass
from djinn_fx.passes.placing.request import Placing, PricedDevice
from djinn_fx.settings.devices import Pin, check_device
from djinn_fx.settings.table import Settings


def placing_elsewhere(settings: Settings, passes: Sequence[Pass]) -> Placing:
    """The devices of the setting ``topology``, each with its row's memory and priced as its row.

    Raises:
        SettingsError: no such topology, a file that is wrong, or a pin to a device that is not in it.
    """
    topology = topology_of(settings.topology)
    assert topology is not None, "asked for where it is set"
    rows = {row.name: row for row in topology.devices.values()}
    pricings = {name: pricing_for(settings, row.kind, passes, row) for name, row in rows.items()}
    devices = tuple(
        PricedDevice(name=name, memory_bytes=row.memory_bytes, pricing=replace(pricings[row.name], device=row))
        for name, row in topology.devices.items()
    )
    names = [device.name for device in devices]
    pins = tuple(known_pin(pin, names) for pin in settings.pins) if not settings.devices else ()
    return Placing(devices=devices, topology=topology, pins=pins, objective=settings.objective)


def known_pin(pin: Pin, known: Sequence[str]) -> Pin:
    """A pin to one of the devices; a number is the n-th of them.

    Raises:
        SettingsError: there is no such device.
    """
    if pin.device.isdigit() and int(pin.device) < len(known):
        return replace(pin, device=known[int(pin.device)])
    try:
        check_device(pin.device, known)
    except ValueError as error:
        raise SettingsError(f"{pin.written}: {error}") from error
    return pin


def unexecuted(gm: GraphModule) -> Callable[..., Any]:
    """In the place of a graph's code: results of the right sizes, all zero, without computing anything.

    Where sizes depend on data there is no telling them, and the graph's own ops run.
    """

    def run(*args: Any) -> Any:
        if any(_has_no_values(one) for one in args):
            return gm.forward(*args)  # computes nothing
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes = [
                    mode.from_tensor(one, static_shapes=True) if isinstance(one, torch.Tensor) else one for one in args
                ]
                results = gm.forward(*fakes)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return gm.forward(*args)
        return type(results)(_zeros(one) for one in results)

    return run


def _has_no_values(one: Any) -> bool:
    return isinstance(one, torch._subclasses.FakeTensor) or (isinstance(one, torch.Tensor) and one.is_meta)


def _zeros(one: Any) -> Any:
    if not isinstance(one, torch.Tensor):
        return one
    return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=one.device).zero_()
