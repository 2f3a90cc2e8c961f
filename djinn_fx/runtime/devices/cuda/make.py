"""From a plan over several CUDA devices to what runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.passes.order import dependencies
from djinn_fx.runtime.devices.cuda.carrying import Way
from djinn_fx.runtime.devices.cuda.driver import DRIVER, Driver
from djinn_fx.runtime.devices.cuda.executor import CudaSpread, Places, given_back, handing_back
from djinn_fx.runtime.devices.cuda.staging import Staging
from djinn_fx.runtime.devices.cuda.streams import streams_of
from djinn_fx.runtime.devices.stretches import Wire, stretches_of
from djinn_fx.runtime.layouts import Strays
from djinn_fx.runtime.program import Program, Step
from djinn_fx.settings.devices import CudaDevice
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan
from djinn_fx.srg.record import RESIDENT


def cuda_spread(
    srg: SRG,
    plan: Plan,
    program: Program,
    callables: Sequence[RegionCallable],
    devices: Sequence[CudaDevice],
    constants: Mapping[int, Any],
    strays: Strays | None = None,
    driver: Driver | None = None,
) -> CudaSpread:
    """What runs a plan whose regions are on these devices.

    Args:
        srg: the graph, with the device of its tensors.
        plan: its plan.
        program: of the plan.
        callables: of its regions, each built for its device.
        devices: at least those of the plan.
        constants: of the program.
        strays: notes values that came with other strides than were traced.
        driver: through which devices are reached; None: this machine's.
    """
    driver = DRIVER if driver is None else driver
    home = srg.home
    assert home is not None, "it was placed on devices with memory of their own"
    names = [*(region.device for region in plan.regions), home]
    program = handing_back(program, names[:-1], home)
    kept = _kept(srg, constants)
    program, copies = _reading_copies(program, names, home, kept)
    wires = list(_wires(program, names, home, kept | _numbers(srg, plan, program)))
    needs = {index: set(before) for index, before in dependencies(srg).items()}
    stretches, slots = stretches_of(program, names, needs, wires)
    known = {one.name: streams_of(one, driver) for one in devices if one.name in {*names}}
    staging = Staging(driver)
    pairs = {(wire.source, wire.target) for wire in wires} | {(home, name) for name in copies}
    places = Places(
        home=home,
        devices=known,
        ways={f"{one}->{other}": Way(known[one], known[other], staging) for one, other in sorted(pairs)},
        kept=tuple(sorted(kept)),
        copies=copies,
        borrowed=frozenset(range(program.arguments)) - kept,
    )
    labels = [*(region.label for region in plan.regions), "results"]
    return CudaSpread(program, stretches, slots, [*callables, given_back], labels, places, constants, strays)


def _kept(srg: SRG, constants: Mapping[int, Any]) -> frozenset[int]:
    """Slots of what stays between calls and is not written: the plan leaves at home whatever reads what is."""
    inputs = enumerate(srg.inputs)
    return frozenset(
        {place for place, node in inputs if srg.record(node).residency in RESIDENT and srg.record(node).outputs}
    ) | frozenset(constants)


def _numbers(srg: SRG, plan: Plan, program: Program) -> frozenset[int]:
    """Slots of values that are no tensors: they are where the program is."""
    slots = {node.name: place for place, node in enumerate(srg.inputs)}
    for step in program.steps[: len(plan.regions)]:
        slots.update(zip(plan.regions[step.region].outputs, step.outputs, strict=True))
    return frozenset(slot for name, slot in slots.items() if not srg.record(srg.node(name)).outputs)


def _reading_copies(
    program: Program, devices: Sequence[str], home: str, kept: frozenset[int]
) -> tuple[Program, dict[str, tuple[tuple[int, int], ...]]]:
    """The program with steps elsewhere that read copies of weights, and each device's weights and their copies."""
    new: dict[tuple[str, int], int] = {}
    slots = program.slots
    steps: list[Step] = []
    for step in program.steps:
        device = devices[step.region]
        inputs = list(step.inputs)
        for at, slot in enumerate(inputs):
            if device != home and slot in kept:
                if (device, slot) not in new:
                    new[device, slot], slots = slots, slots + 1
                inputs[at] = new[device, slot]
        frees = tuple(slot for slot in step.frees if slot in inputs)
        steps.append(replace(step, inputs=tuple(inputs), frees=frees))
    layouts = program.layouts
    if layouts is not None:
        layouts = replace(layouts, strides=(*layouts.strides, *(None for _ in new)))
    copies = {
        device: tuple((slot, copy) for (name, slot), copy in new.items() if name == device)
        for device in dict.fromkeys(name for name, _ in new)
    }
    return replace(program, slots=slots, steps=tuple(steps), layouts=layouts), copies


def _wires(program: Program, devices: Sequence[str], home: str, stays: frozenset[int]) -> Iterator[Wire]:
    """Every value that is read on another device than it is on, once a device; ``stays``: slots that never pass."""
    at = dict.fromkeys(range(program.arguments), home)
    at.update((slot, devices[step.region]) for step in program.steps for slot in step.outputs)
    seen: set[tuple[int, str]] = set()
    for step in program.steps:
        target = devices[step.region]
        for slot in step.inputs:
            source = at.get(slot, target)  # a copy of a weight is where it is read
            if source != target and slot not in stays and (slot, target) not in seen:
                seen.add((slot, target))
                yield Wire(slot=slot, source=source, target=target, nbytes=0)
