"""Checks on whole numbers that are made before a call: from the extremes of a few arguments to all that follows.

A program is made while a region is converted, of what could not be proved then. It is plain data, kept with the
artefact. Intervals only grow with their operands, so a call whose arguments lie between the extremes of calls that were
found good needs no reckoning: a look at the extremes is all that a call usually costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.engines.base import Declined
from djinn_fx.engines.lowering.formulas import Formula, evaluate
from djinn_fx.engines.ranges.intervals import RULES, Interval, hull, within

#: Combinations of sizes whose good calls are remembered.
_MAX_SIZES = 256
#: Up to this many elements are looked at one by one.
_FEW = 16
#: torch finds no extremes of these; numpy does.
_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})


@dataclass(frozen=True)
class Step:
    """One interval from others: a rule's name, its operands by slot, its numbers."""

    rule: str
    slots: tuple[int, ...]
    numbers: tuple[Formula, ...]


@dataclass(frozen=True)
class Check:
    """The interval in this slot must lie between these ends, both included."""

    slot: int
    least: Formula
    most: Formula
    why: str


@dataclass(frozen=True)
class CheckProgram:
    """See the module's text.

    Attributes:
        places: the region's arguments whose extremes are the first slots, in order.
        steps: each fills the next slot.
        checks: what must hold.
    """

    places: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    checks: tuple[Check, ...] = ()

    def broken(self, given: Sequence[Interval], symbols: Mapping[str, int]) -> Check | None:
        """The first check that does not hold; None if all do.

        Args:
            given: the extremes of the arguments at ``places``.
            symbols: values of the symbols that formulas name.
        """
        slots = list(given)
        for step in self.steps:
            numbers = [one if type(one) is int else evaluate(one, symbols) for one in step.numbers]
            slots.append(RULES[step.rule]([slots[one] for one in step.slots], numbers))
        for check in self.checks:
            if not within(slots[check.slot], (evaluate(check.least, symbols), evaluate(check.most, symbols))):
                return check
        return None

    def to_json(self) -> dict[str, Any]:
        """The program as a JSON object."""
        return {
            "places": list(self.places),
            "steps": [[one.rule, list(one.slots), list(one.numbers)] for one in self.steps],
            "checks": [[one.slot, one.least, one.most, one.why] for one in self.checks],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CheckProgram:
        """The program from :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if unknown := {rule for rule, _, _ in data["steps"]} - set(RULES):
            raise ValueError(f"unknown rules {sorted(unknown)}")
        return CheckProgram(
            places=tuple(data["places"]),
            steps=tuple(Step(rule, tuple(slots), tuple(numbers)) for rule, slots, numbers in data["steps"]),
            checks=tuple(Check(*one) for one in data["checks"]),
        )


class Checked:
    """A program at work. May be called from several threads at once.

    Args:
        program: to run.
        symbols: where each symbol is read: an argument, and its dimension (None: the argument itself).
        held: arguments that stay as they are, by place: looked at once.
    """

    def __init__(
        self,
        program: CheckProgram,
        symbols: Mapping[str, tuple[int, int | None]],
        held: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        self._program = program
        self._fixed = {place: extremes(value) for place, value in (held or {}).items() if place in program.places}
        used = {name for one in _formulas(program) for name in _names(one)}
        self._symbols = [(name, *where) for name, where in sorted(symbols.items()) if name in used]
        self._good: dict[tuple[int, ...], tuple[Interval, ...]] = {}

    def __call__(self, args: Sequence[Any]) -> None:
        """Look at a call's arguments.

        Raises:
            Declined: something that follows from them may not be computed as torch does.
        """
        program, fixed = self._program, self._fixed
        if not program.checks:
            return
        given = tuple([fixed[one] if one in fixed else extremes(args[one]) for one in program.places])
        sizes = tuple([int(args[p]) if dim is None else int(args[p].shape[dim]) for _, p, dim in self._symbols])
        good = self._good.get(sizes)
        if good is not None and all(map(within, given, good)):
            return
        symbols = {one[0]: size for one, size in zip(self._symbols, sizes, strict=True)}
        broken = program.broken(given, symbols)
        if broken is not None:
            raise Declined(broken.why)
        joined = given if good is None else tuple(map(hull, given, good))
        if len(self._good) < _MAX_SIZES or good is not None:
            self._good[sizes] = joined if program.broken(joined, symbols) is None else given


def extremes(value: Any) -> Interval:
    """The least and the greatest element of a tensor of whole numbers, or a number twice; of nothing, 0."""
    if not isinstance(value, torch.Tensor):
        return int(value), int(value)
    count = value.numel()
    if count == 1:  # how far a cache is filled, of which a decoder has one a layer
        number: int = value.item()  # type: ignore[assignment]
        return number, number
    if not count:
        return 0, 0
    if count <= _FEW:
        numbers = value.reshape(-1).tolist()
        return int(min(numbers)), int(max(numbers))
    if value.dtype in _UNSIGNED:
        array = value.detach().numpy()
        return int(array.min()), int(array.max())
    least, most = torch.aminmax(value)
    return int(least), int(most)


def _formulas(program: CheckProgram) -> list[Formula]:
    numbers = [number for step in program.steps for number in step.numbers]
    return [*numbers, *(end for check in program.checks for end in (check.least, check.most))]


def _names(formula: Formula) -> set[str]:
    if isinstance(formula, str):
        return {formula}
    return set().union(*map(_names, formula[1:])) if isinstance(formula, list) else set()
