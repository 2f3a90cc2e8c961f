"""A program's steps as stretches: each one device's, with what it waits for, so that nothing runs before its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from djinn_fx.runtime.program import Program, Step


@dataclass(frozen=True, kw_only=True)
class Move:
    """A value that goes over a link: copied from one slot to another; ``frees``: nobody reads it there afterwards."""

    source: int
    target: int
    nbytes: int
    frees: bool = False


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Steps of one device without a break, or values that go over one link.

    Attributes:
        device: who runs it; of moves, ``"from->to"``.
        steps: what is run, in order; their ``frees`` hold for whatever order stretches run in.
        moves: what goes over the link.
        waits: how many stretches must be over before it.
        then: stretches that wait for it.
    """

    device: str
    steps: tuple[Step, ...] = ()
    moves: tuple[Move, ...] = ()
    waits: int = 0
    then: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A value that is to go over a link: its slot, from where to where, in bytes."""

    slot: int
    source: str
    target: str
    nbytes: int


def stretches_of(
    program: Program, devices: Sequence[str], needs: Mapping[int, Set[int]], wires: Sequence[Wire] = ()
) -> tuple[tuple[Stretch, ...], int]:
    """The stretches of a program, each after those that it waits for; and how many slots they use.

    Args:
        program: the steps in an order in which they can run.
        devices: of each region.
        needs: for each region those that must run before it.
        wires: values that are copied from one device to another.
    """
    runs: list[list[Step]] = []
    for step in program.steps:
        if runs and devices[runs[-1][-1].region] == devices[step.region]:
            runs[-1].append(step)
        else:
            runs.append([step])
    stretches = [Stretch(device=devices[run[0].region], steps=tuple(run)) for run in runs]
    home = {step.region: place for place, run in enumerate(runs) for step in run}
    before = [{home[other] for step in run for other in needs.get(step.region, ())} for run in runs]
    for place, waited in enumerate(before):
        waited.discard(place)
    slots = program.slots
    for wire in wires:
        slots = _wired(stretches, before, wire, slots)
    ordered = _in_order(before)
    number = {old: new for new, old in enumerate(ordered)}
    stretches, before = [stretches[old] for old in ordered], [{number[one] for one in before[old]} for old in ordered]
    freed = {slot for step in program.steps for slot in step.frees} | set(range(program.slots, slots))
    stretches = _freeing(stretches, before, freed)
    then: list[list[int]] = [[] for _ in stretches]
    for place, waited in enumerate(before):
        for other in sorted(waited):
            then[other].append(place)
    done = [
        replace(one, waits=len(waited), then=tuple(after))
        for one, waited, after in zip(stretches, before, then, strict=True)
    ]
    return tuple(done), slots


def _wired(stretches: list[Stretch], before: list[set[int]], wire: Wire, slots: int) -> int:
    """Put the copying of a value between the stretch that makes it and those that read it. How many slots there are."""
    maker = next((place for place, one in enumerate(stretches) if _makes(one, wire.slot)), None)
    readers = [
        place
        for place, one in enumerate(stretches)
        if one.device == wire.target and any(wire.slot in step.inputs for step in one.steps)
    ]
    if not readers:
        return slots
    name = f"{wire.source}->{wire.target}"
    move = Move(source=wire.slot, target=slots, nbytes=wire.nbytes)
    stretches.append(Stretch(device=name, moves=(move,)))
    before.append({maker} if maker is not None else set())
    for place in readers:
        steps = tuple(
            replace(step, inputs=tuple(slots if slot == wire.slot else slot for slot in step.inputs))
            for step in stretches[place].steps
        )
        stretches[place] = replace(stretches[place], steps=steps)
        before[place].add(len(stretches) - 1)
    return slots + 1


def _makes(one: Stretch, slot: int) -> bool:
    return any(slot in step.outputs for step in one.steps)


def _in_order(before: Sequence[Set[int]]) -> list[int]:
    """The stretches, each after those that it waits for."""
    ordered: list[int] = []
    seen: set[int] = set()

    def visit(place: int) -> None:
        if place not in seen:
            seen.add(place)
            for other in sorted(before[place]):
                visit(other)
            ordered.append(place)

    for place in range(len(before)):
        visit(place)
    return ordered


def _freeing(stretches: Sequence[Stretch], before: Sequence[Set[int]], freed: Set[int]) -> list[Stretch]:
    """The stretches with each slot emptied where it is read last.

    That is in a stretch which runs after all others that read it; a slot of which two stretches may be the last is kept
    until the call is over.
    """
    earlier: list[set[int]] = []
    for waited in before:
        earlier.append(set(waited).union(*(earlier[other] for other in waited)))
    readers: dict[int, list[int]] = {}
    for place, one in enumerate(stretches):
        read = {slot for step in one.steps for slot in step.inputs} | {move.source for move in one.moves}
        for slot in read & freed:
            readers.setdefault(slot, []).append(place)
    last: list[set[int]] = [set() for _ in stretches]
    for slot, places in readers.items():
        if all(place == places[-1] or place in earlier[places[-1]] for place in places):
            last[places[-1]].add(slot)
    found = []
    for one, mine in zip(stretches, last, strict=True):
        steps, left = [], set(mine)
        for step in reversed(one.steps):
            frees = tuple(slot for slot in dict.fromkeys(step.inputs) if slot in left)
            left.difference_update(frees)
            steps.append(replace(step, frees=frees))
        moves = tuple(replace(move, frees=move.source in mine) for move in one.moves)
        found.append(replace(one, steps=tuple(reversed(steps)), moves=moves))
    return found
