"""The executor: values in numbered slots, one step a region, each slot emptied at its last use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from djinn_fx.engines.base import RegionCallable
from djinn_fx.runtime.layouts import Expected, Layouts, Strays, layouts_of, write_back
from djinn_fx.srg.extract import input_value
from djinn_fx.srg.graph import SRG
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
    """

    arguments: int
    slots: int
    steps: tuple[Step, ...]
    results: tuple[Result, ...]
    layouts: Layouts | None = None


def program_of(srg: SRG, plan: Plan) -> tuple[Program, Mapping[int, Any]]:
    """The program of a plan, and the constants it needs by slot (values that are neither arguments nor made)."""
    slot: dict[str, int] = {node.name: place for place, node in enumerate(srg.inputs)}
    arguments = len(slot)
    constants: dict[int, Any] = {}
    for node in srg.gm.graph.find_nodes(op="get_attr"):
        if srg.record(node).outputs and any(node.name in region.inputs for region in plan.regions):
            slot[node.name] = len(slot)
            constants[slot[node.name]] = _attribute(srg, node)
    for index in plan.order:
        for name in plan.regions[index].outputs:
            slot.setdefault(name, len(slot))
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
    value: Any = srg.gm
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if value is not None else input_value(srg, node)


def executable(program: Program, callables: Sequence[RegionCallable], constants: Mapping[int, Any]) -> RegionCallable:
    """A boxed callable that runs the program: takes the graph's arguments as a list and empties it.

    It has an attribute ``strays``, unless it is a region's own: see :mod:`djinn_fx.runtime.layouts`.
    """
    if program.layouts is None and _passes_straight_through(program, constants):
        return callables[program.steps[0].region]
    spare: list[Any] = [None] * (program.slots - program.arguments)
    for place, value in constants.items():
        spare[place - program.arguments] = value
    steps = tuple((callables[s.region], s.inputs, s.outputs, s.frees) for s in program.steps)
    results = tuple(r if isinstance(r, int) else None for r in program.results)
    literals = tuple(r[0] if isinstance(r, list) else None for r in program.results)
    layouts = program.layouts or Layouts(strides=(None,) * program.slots)
    expected, strays = Expected(layouts), Strays()
    looked_at = tuple(place for place in range(program.arguments) if layouts.strides[place] is not None)

    def call(args: list[Any]) -> list[Any]:
        slots = [*args, *spare]
        args.clear()
        promised = expected.of(slots)
        copied: list[Any] = []
        for place in looked_at:
            strides = promised[place]
            if strides is not None and slots[place].stride() != strides:
                copied += strays.argument(place, slots, strides, layouts.written)
        for run, inputs, outputs, frees in steps:
            given = [slots[place] for place in inputs]
            for place in frees:
                slots[place] = None
            made = run(given)
            for place, value in zip(outputs, made, strict=True):
                strides = promised[place]
                if strides is not None and value.stride() != strides:
                    value = strays.settled(place, value, strides)
                slots[place] = value
            value = None
            del made  # else both would live until the next region has run
        if copied:
            write_back(copied)
        return [literal if place is None else slots[place] for place, literal in zip(results, literals, strict=True)]

    call.strays = strays  # type: ignore[attr-defined]
    return call


def _passes_straight_through(program: Program, constants: Mapping[int, Any]) -> bool:
    """Whether the only region has the graph's own signature."""
    if len(program.steps) != 1 or constants:
        return False
    step = program.steps[0]
    return step.inputs == tuple(range(program.arguments)) and step.outputs == program.results
