"""A plan as numbered slots and steps, one a region: plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from djinn_fx.reasons import Reason
from djinn_fx.runtime.arena.pieces import Pieces, pieces_of
from djinn_fx.runtime.layouts import Layouts, layouts_of
from djinn_fx.srg.extract import input_value
from djinn_fx.srg.graph import SRG, attribute
from djinn_fx.srg.plan import Plan

#: Where a result comes from: a slot number, or a constant as ``[value]``.
Result = int | list[Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Run one region.

    Attributes:
        region: index of the region.
        inputs: slots it reads, in its argument order.
        outputs: slots it fills, in its result order.
        frees: slots whose value no later step reads; emptied before the region runs, which then holds the
            only reference and may free its inputs early.
    """

    region: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    frees: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """The steps of a plan, and how arguments and results map to slots. Plain data: it can be stored.

    Attributes:
        arguments: how many; they fill the first slots.
        slots: how many there are.
        steps: in execution order.
        results: one per value the graph returns.
        layouts: the strides that values have where a region begins or ends; None: nobody looks.
        arena: what lies in one allocation; None: nothing.
    """

    arguments: int
    slots: int
    steps: tuple[Step, ...]
    results: tuple[Result, ...]
    layouts: Layouts | None = None
    arena: Pieces | None = None


def with_arena(program: Program, srg: SRG, plan: Plan) -> tuple[Program, tuple[Reason, ...]]:
    """A plan's program with an arena for values between regions, and why some are not in it."""
    slots = dict(_slots(srg, plan))
    pieces, reasons = pieces_of(srg, plan, slots)
    return replace(program, arena=pieces), reasons


def _slots(srg: SRG, plan: Plan) -> Iterator[tuple[str, int]]:
    """The slot of each value that has one, constants that are only returned apart."""
    names = [node.name for node in srg.inputs]
    names += [
        node.name
        for node in srg.gm.graph.find_nodes(op="get_attr")
        if srg.record(node).outputs and any(node.name in region.inputs for region in plan.regions)
    ]
    names += [name for index in plan.order for name in plan.regions[index].outputs]
    for slot, name in enumerate(dict.fromkeys(names)):
        yield name, slot


def program_of(srg: SRG, plan: Plan) -> tuple[Program, Mapping[int, Any]]:
    """The program of a plan, and the constants it needs by slot (values that are neither arguments nor made)."""
    slot, arguments = dict(_slots(srg, plan)), len(srg.inputs)
    held = srg.gm.graph.find_nodes(op="get_attr")
    constants: dict[int, Any] = {slot[node.name]: _attribute(srg, node) for node in held if node.name in slot}
    results = _results(srg, slot, constants)
    kept = {result for result in results if isinstance(result, int)} | set(constants)
    steps: list[Step] = []
    needed = set(kept)
    for index in reversed(plan.order):
        region = plan.regions[index]
        inputs = tuple(slot[name] for name in region.inputs)
        frees = tuple(dict.fromkeys(i for i in inputs if i not in needed))
        needed.update(inputs)
        outputs = tuple(slot[name] for name in region.outputs)
        steps.append(Step(region=index, inputs=inputs, outputs=outputs, frees=frees))
    program = Program(
        arguments=arguments,
        slots=len(slot),
        steps=tuple(reversed(steps)),
        results=tuple(results),
        layouts=layouts_of(srg, slot),
    )
    return program, constants


def _results(srg: SRG, slot: dict[str, int], constants: dict[int, Any]) -> list[Result]:
    returned = srg.output.args[0]
    values: Sequence[Any] = returned if isinstance(returned, (tuple, list)) else (returned,)
    results: list[Result] = []
    for value in values:
        if not isinstance(value, Node):
            results.append([value])
            continue
        if value.name not in slot:  # a constant that the graph returns as it is
            slot[value.name] = len(slot)
            constants[slot[value.name]] = _attribute(srg, value)
        results.append(slot[value.name])
    return results


def _attribute(srg: SRG, node: Node) -> Any:
    value = attribute(srg.gm, node.target)
    return value if value is not None else input_value(srg, node)


def program_to_json(program: Program) -> dict[str, Any]:
    """A program as JSON, but for literal results that are none."""
    return {
        "arguments": program.arguments,
        "slots": program.slots,
        "results": list(program.results),
        "steps": [[s.region, s.inputs, s.outputs, s.frees] for s in program.steps],
        "layouts": program.layouts.to_json() if program.layouts is not None else None,
        "arena": program.arena.to_json() if program.arena is not None else None,
    }


def program_from_json(form: Mapping[str, Any]) -> Program:
    """What :func:`program_to_json` wrote."""
    steps = tuple(
        Step(region=region, inputs=tuple(inputs), outputs=tuple(outputs), frees=tuple(frees))
        for region, inputs, outputs, frees in form["steps"]
    )
    layouts, arena = form.get("layouts"), form.get("arena")
    return Program(
        arguments=form["arguments"],
        slots=form["slots"],
        steps=steps,
        results=tuple(form["results"]),
        layouts=Layouts.from_json(layouts) if layouts is not None else None,
        arena=Pieces.from_json(arena) if arena is not None else None,
    )
