"""The executor: values in numbered slots, one step a region, each slot emptied at its last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from djinn_fx.engines.base import Arguments, RegionCallable
from djinn_fx.runtime.arena.arena import Arena, Layout
from djinn_fx.runtime.layouts import Expected, Layouts, Strays, write_back
from djinn_fx.runtime.program import Program


def executable(
    program: Program,
    callables: Sequence[RegionCallable],
    constants: Mapping[int, Any],
    strays: Strays | None = None,
    arena: Arena | None = None,
) -> RegionCallable:
    """A boxed callable that runs the program: takes the graph's arguments as a list and empties it.

    Args:
        program: the steps.
        callables: of its regions.
        constants: values of slots that are neither arguments nor made.
        strays: notes values that came with other strides than were traced.
        arena: where values between regions lie; None: one that is made of the program, if that has one.
    """
    if program.layouts is None and _passes_straight_through(program, constants):
        return callables[program.steps[0].region]
    spare: list[Any] = [None] * (program.slots - program.arguments)
    for place, value in constants.items():
        spare[place - program.arguments] = value
    steps = tuple((callables[s.region], s.inputs, s.outputs, s.frees) for s in program.steps)
    results = tuple(r if isinstance(r, int) else None for r in program.results)
    without: tuple[None, ...] = (None,) * len(steps)
    literals = tuple(r[0] if isinstance(r, list) else None for r in program.results)
    layouts = program.layouts or Layouts(strides=(None,) * program.slots)
    expected, strays = Expected(layouts), strays if strays is not None else Strays()
    looked_at = tuple(place for place in range(program.arguments) if layouts.strides[place] is not None)
    if arena is None and program.arena is not None:
        arena = Arena(program.arena, len(steps))

    def call(args: list[Any], within: Layout | None = None) -> list[Any]:
        slots = [*args, *spare]
        args.clear()
        offers = within.offers if within is not None else without
        promised = expected.of(slots)
        copied: list[Any] = []
        for place in looked_at:
            strides = promised[place]
            if strides is not None and slots[place].stride() != strides:
                copied += strays.argument(place, slots, strides, layouts.written)
        for (run, inputs, outputs, frees), into in zip(steps, offers, strict=True):
            given = [slots[place] for place in inputs]
            if into is not None:
                given = Arguments(given, into)
            for place in frees:
                slots[place] = None
            made = run(given)
            for place, value in zip(outputs, made, strict=True):
                strides = promised[place]
                if strides is not None and value.stride() != strides:
                    value = strays.settled(place, value, strides)
                slots[place] = value if within is None else within.settled(place, value)
            value = None
            del made  # else both would live until the next region has run
        if copied:
            write_back(copied)
        made = [literal if place is None else slots[place] for place, literal in zip(results, literals, strict=True)]
        return made if within is None else list(map(within.returned, made))

    return call if arena is None else _in_arena(call, arena)


def _in_arena(call: Callable[..., list[Any]], arena: Arena) -> RegionCallable:
    def run(args: list[Any]) -> list[Any]:
        within = arena.enter(args)
        if within is None:  # another thread's call is in it, or this one's, further out
            return call(args)
        try:
            return call(args, within)
        finally:
            arena.leave()

    return run


def _passes_straight_through(program: Program, constants: Mapping[int, Any]) -> bool:
    """Whether the only region has the graph's own signature."""
    if len(program.steps) != 1 or constants:
        return False
    step = program.steps[0]
    return step.inputs == tuple(range(program.arguments)) and step.outputs == program.results
