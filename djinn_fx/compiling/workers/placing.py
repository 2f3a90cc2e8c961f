"""What the passes are told of workers, and which graphs are not spread over them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from djinn_fx.compiling.devices.cuda import not_spread
from djinn_fx.compiling.devices.elsewhere import known_pin
from djinn_fx.compiling.pricing import pricing_for
from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.local import device_row
from djinn_fx.hardware.workers import ASSUMED, WorkerLink, worker_topology
from djinn_fx.passes.base import Pass
from djinn_fx.passes.placing.request import Placing, PricedDevice
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.devices.wear import with_threads
from djinn_fx.settings.devices import LocalDevice
from djinn_fx.settings.table import Settings
from djinn_fx.settings.workers import is_worker, read_workers, worker_name
from djinn_fx.srg.record import GraphKind
from djinn_fx.units import format_bytes, format_seconds, parse_bytes


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Workers that a plan is made for without any being started.

    Attributes:
        names: of them.
        threads: of each.
        reason: what of this is assumed.
    """

    names: tuple[str, ...]
    threads: int
    reason: Reason


def expected(settings: Settings) -> Expected:
    """The workers that the settings would give, as far as that is known without starting or asking anything.

    How many a Ray elsewhere has is not known; there are at least those that something is pinned to.
    """
    local = read_workers(settings.workers).local
    pinned = [int(pin.device.partition(":")[2]) + 1 for pin in settings.pins if is_worker(pin.device)]
    count = local or max(pinned, default=1)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, processors // local) if local else processors
    link = f"{format_seconds(ASSUMED.latency_s)} and {format_bytes(int(ASSUMED.bandwidth_bytes_s))}/s between workers"
    many = "" if local else f"{count} worker{'' if count == 1 else 's'}, each like this machine, and "
    detail = f"no worker was started or asked: {many}{link} are assumed; a run measures them (djinn workers measure)"
    return Expected(
        names=tuple(map(worker_name, range(count))),
        threads=threads,
        reason=Reason(kind=ReasonKind.ASSUMED, detail=detail),
    )


def worker_placing(
    settings: Settings,
    passes: Sequence[Pass],
    names: Sequence[str],
    kind: GraphKind,
    device: str,
    *,
    threads: int,
    links: Mapping[str, WorkerLink] | None = None,
    rooms: Mapping[str, int] | None = None,
    told: Sequence[Reason] = (),
) -> Placing:
    """What the passes are to keep to for a graph.

    Each worker is priced as so many of this machine's processors: what others have is not known here.

    Args:
        settings: in force.
        passes: the pipeline.
        names: of the workers that are left.
        kind: of the graph.
        device: that its tensors are on.
        threads: of each worker.
        links: to each; None: they are assumed.
        rooms: bytes that each says it holds at most, of all models together; None: that is not known.
        told: what is to be told of workers that are lost.

    Raises:
        SettingsError: a pin to a worker that is not there.
    """
    if kind is not GraphKind.INFERENCE:
        return not_spread(f"training stays in this process: a {kind.value} graph keeps values for the other one", told)
    if device != "cpu":
        return not_spread(f"workers are processors, and its tensors are on {device}", told)
    with with_threads(threads):
        pricing = pricing_for(settings, "cpu", passes)
    asked = [parse_bytes(settings.worker_memory)] if settings.worker_memory is not None else []

    def memory(name: str) -> int | None:
        """What a worker would refuse to hold is not placed on it."""
        return min([*asked, *([rooms[name]] if rooms and rooms.get(name) else [])], default=None)

    row = device_row(LocalDevice(name="worker", cores=tuple(range(threads))), this_machine())
    pins = tuple(known_pin(pin, names) for pin in settings.pins if pin.device in names or not is_worker(pin.device))
    return Placing(
        devices=tuple(
            PricedDevice(name=name, memory_bytes=memory(name), pricing=replace(pricing, device=row), here=True)
            for name in names
        ),
        topology=worker_topology(
            dict.fromkeys(names, row), links if links is not None else dict.fromkeys(names, ASSUMED)
        ),
        pins=pins,
        objective=settings.objective,
        whole=True,
        threads=threads,
        told=tuple(told),
        abroad=True,
    )
