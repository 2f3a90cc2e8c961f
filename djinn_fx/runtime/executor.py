"""The executor: values in numbered slots, one step a region, each slot emptied at its last use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.runtime.layouts import Expected, Layouts, Strays, write_back
from djinn_fx.runtime.program import Program


def executable(
    program: Program,
    callables: Sequence[RegionCallable],
    constants: Mapping[int, Any],
    strays: Strays | None = None,
) -> RegionCallable:
    """A boxed callable that runs the program: takes the graph's arguments as a list and empties it.

    Args:
        program: the steps.
        callables: of its regions.
        constants: values of slots that are neither arguments nor made.
        strays: notes values that came with other strides than were traced.
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
    expected, strays = Expected(layouts), strays if strays is not None else Strays()
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

    return call


def _passes_straight_through(program: Program, constants: Mapping[int, Any]) -> bool:
    """Whether the only region has the graph's own signature."""
    if len(program.steps) != 1 or constants:
        return False
    step = program.steps[0]
    return step.inputs == tuple(range(program.arguments)) and step.outputs == program.results
