"""From a plan over several devices to what runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.passes.order import dependencies
from djinn_fx.runtime.devices.executor import Spread
from djinn_fx.runtime.devices.links import LinkThread
from djinn_fx.runtime.devices.stretches import Wire, stretches_of
from djinn_fx.runtime.devices.thread import DeviceThread, thread_of
from djinn_fx.runtime.layouts import Strays
from djinn_fx.runtime.program import Program
from djinn_fx.settings.devices import DeclaredLink, LocalDevice
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan


def spread_of(
    srg: SRG,
    plan: Plan,
    program: Program,
    callables: Sequence[RegionCallable],
    devices: Sequence[LocalDevice],
    links: Sequence[DeclaredLink] = (),
    constants: Mapping[int, Any] | None = None,
    strays: Strays | None = None,
) -> Spread:
    """What runs a plan whose regions are on these devices.

    Args:
        srg: the graph.
        plan: its plan.
        program: of the plan.
        callables: of its regions.
        devices: at least those of the plan.
        links: between them; where there is none, values are handed over as they are.
        constants: of the program.
        strays: notes values that came with other strides than were traced.
    """
    used = {region.device for region in plan.regions}
    threads: dict[str, DeviceThread] = {one.name: thread_of(one) for one in devices if one.name in used}
    ways = {f"{one}->{other}": link for link in links for one, other in (link.ends, link.ends[::-1])}
    wires = [wire for wire in _wires(srg, plan, program) if f"{wire.source}->{wire.target}" in ways]
    names = {f"{wire.source}->{wire.target}" for wire in wires}
    stretches, slots = stretches_of(program, [one.device for one in plan.regions], dependencies(srg), wires)
    return Spread(
        program,
        stretches,
        slots,
        callables,
        [region.label for region in plan.regions],
        threads,
        {name: LinkThread(f"djinn {name}", ways[name]) for name in names},
        constants or {},
        strays,
    )


def _wires(srg: SRG, plan: Plan, program: Program) -> Iterator[Wire]:
    """The plan's transfers by slot, once a value and device; what is written into stays where it is."""
    steps = {step.region: step for step in program.steps}
    written = {
        meta.storage
        for node in srg.ops
        for name in srg.record(node).mutates
        for meta in srg.record(srg.node(name)).outputs
    }
    seen: set[tuple[int, str]] = set()
    for transfer in plan.transfers:
        region = plan.regions[transfer.before_region]
        slot = steps[region.index].inputs[region.inputs.index(transfer.value)]
        fixed = not any(meta.storage in written for meta in srg.record(srg.node(transfer.value)).outputs)
        if fixed and (slot, transfer.target) not in seen:
            seen.add((slot, transfer.target))
            yield Wire(slot=slot, source=transfer.source, target=transfer.target, nbytes=transfer.nbytes)
