"""An op of a canonical form apart from whose values it reads: its call with gaps, and the numbers that fill them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.srg.form.digests import as_texts

#: Stands for the number of a value.
_GAP = ["%", None]


def with_gaps(op: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """An op's target, arguments and keywords with gaps, and the numbers that were there, in order."""
    numbers: list[int] = []

    def literal(form: Any) -> Any:
        if not isinstance(form, list):
            return form
        if form[0] == "%":
            numbers.append(form[1])
            return _GAP
        return _mapped(form, literal)

    target, args, kwargs, _ = op
    return [target, literal(args), literal(kwargs)], numbers


def filled(call: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
    """A call with numbers in its gaps.

    Raises:
        ValueError: it has more or fewer gaps.
    """
    left: Iterator[int] = iter(numbers)

    def literal(form: Any) -> Any:
        if not isinstance(form, list):
            return form
        if form[0] == "%":
            number = next(left, None)
            if number is None:
                raise ValueError("more gaps than numbers")
            return ["%", number]
        return _mapped(form, literal)

    target, args, kwargs = call
    made = [target, literal(args), literal(kwargs)]
    if next(left, None) is not None:
        raise ValueError("fewer gaps than numbers")
    return made


@dataclass(frozen=True)
class Parts:
    """A form taken apart, each list by the op's place.

    Attributes:
        calls: with gaps.
        call_texts: the same as text; equal ones are one object.
        numbers: of the values that are read.
        value_texts: the descriptions of all values as text, those of the inputs first.
    """

    calls: list[list[Any]]
    call_texts: list[str]
    numbers: list[list[int]]
    value_texts: list[str]


def parts_of(form: Mapping[str, Any]) -> Parts:
    """The parts of a canonical form."""
    pairs = [with_gaps(op) for op in form["ops"]]
    calls = [call for call, _ in pairs]
    values = [value for value, _ in form["inputs"]] + [op[3] for op in form["ops"]]
    one: dict[str, str] = {}
    texts = [one.setdefault(text, text) for text in as_texts([*calls, *values])]
    return Parts(calls, texts[: len(calls)], [numbers for _, numbers in pairs], texts[len(calls) :])


def _mapped(form: list[Any], literal: Any) -> list[Any]:
    """A tagged literal with each part mapped; the body of a higher-order op numbers its own values."""
    tag, *parts = form
    if tag == "dict":
        return [tag, *([key, literal(value)] for key, value in parts)]
    if tag in ("list", "slice"):
        return [tag, *map(literal, parts)]
    return form
