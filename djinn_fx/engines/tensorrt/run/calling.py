"""How a region's arguments and results map to a plan's tensors: plain data, kept in the artefact's header.

A plan takes and gives tensors by name; a region takes and gives a list of tensors, sizes and numbers, writes into some
of its arguments, and may hand an argument through. Everything needed to call the one as if it were the other is here,
as JSON, so that a stored plan can be called without the graph it came from.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from djinn_fx.engines.bound.signature import Argument, Given, Result, Same, Size, View, result_from_json, result_to_json
from djinn_fx.engines.lowering.formulas import Formula, evaluate
from djinn_fx.engines.ranges.program import CheckProgram

#: Raised with every change of the form or its meaning; part of every key.
CALLING_SCHEMA = 3


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An output of the plan that is copied into a region input after the run: the region writes this input.

    Attributes:
        output: which of the plan's, by index.
        input: which region input, by index.
    """

    output: int
    input: int


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One input of the plan.

    Attributes:
        name: what the plan calls it.
        argument: the region's argument it is.
        dtype: torch's name of its type, without the prefix.
        shape: sizes; a symbol's name, or None for one without a name, where it differs from call to call.
    """

    name: str
    argument: int
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """One output of the plan.

    Attributes:
        name: what the plan calls it.
        dtype: torch's name of its type, without the prefix.
        shape: sizes; None: those of the argument it is copied into.
    """

    name: str
    dtype: str
    shape: tuple[Formula, ...] | None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The values a symbol may have: the plan's profile. Both ends count."""

    symbol: str
    least: int
    most: int


class Place(NamedTuple):
    """Where a symbol is read."""

    symbol: str
    argument: int
    dim: int


@dataclass(frozen=True, kw_only=True)
class Calling:
    """The whole mapping.

    Attributes:
        arguments: how many the region takes.
        inputs: the plan's, in order.
        outputs: the plan's, in order.
        results: the region's, in order. Those that the plan computes have their sizes and strides.
        copies: which outputs of the plan are written into which arguments.
        limits: one for each symbol in the inputs' shapes.
        elsewhere: where symbols are read that are no size of an input of the plan.
        flag: the output that says whether this call's values are such that the plan computes what torch does; None:
            they always are.
        program: what must hold of the arguments' whole numbers, and can be told before the call.
    """

    arguments: int
    inputs: tuple[Taken, ...]
    outputs: tuple[Made, ...]
    results: tuple[Result, ...]
    copies: tuple[Copy, ...] = ()
    limits: tuple[Limit, ...] = ()
    elsewhere: tuple[Place, ...] = ()
    flag: int | None = None
    program: CheckProgram = field(default_factory=CheckProgram)

    def __post_init__(self) -> None:
        """Check that every index points at something and every formula can be evaluated.

        Raises:
            ValueError: what does not fit.
        """
        for given in self.inputs:
            _below(given.argument, self.arguments, "argument")
        for limit in self.limits:
            if not 0 <= limit.least <= limit.most:
                raise ValueError(f"{limit.symbol} from {limit.least} to {limit.most}")
        for copy in self.copies:
            _below(copy.output, len(self.outputs), "output")
            _below(copy.input, self.arguments, "argument")
        for place, result in enumerate(self.results):
            if isinstance(result, Given):
                _below(result.output, len(self.outputs), "output")
                if result.sizes is None or result.strides is None:
                    raise ValueError(f"result {place} without sizes")
            if isinstance(result, Argument) or (isinstance(result, View) and result.result is None):
                _below(result.place, self.arguments, "argument")
            elif isinstance(result, (Same, View)):
                _below(result.result, place, "earlier result")
        for read in self.elsewhere:
            _below(read.argument, self.arguments, "argument")
        if self.flag is not None:
            _below(self.flag, len(self.outputs), "output")
        targets = {copy.output for copy in self.copies}
        if any(made.shape is None and index not in targets for index, made in enumerate(self.outputs)):
            raise ValueError("an output without sizes is copied nowhere")
        symbols = {place.symbol for place in self.places}
        if {limit.symbol for limit in self.limits} != symbols:
            raise ValueError(f"limits for {[limit.symbol for limit in self.limits]}, symbols {sorted(symbols)}")
        trial = dict.fromkeys((*symbols, *(place.symbol for place in self.elsewhere)), 1)
        for formula in self._formulas():
            try:
                with contextlib.suppress(ZeroDivisionError):  # of the trial's values, not of the formula
                    evaluate(formula, trial)
            except (KeyError, TypeError) as error:
                raise ValueError(f"size {formula!r} cannot be reckoned: {error!r}") from error

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every place a symbol can be read at; a symbol must have the same value at all of its places."""
        return tuple(
            Place(size, given.argument, dim)
            for given in self.inputs
            for dim, size in enumerate(given.shape)
            if isinstance(size, str)
        )

    @property
    def mutated(self) -> tuple[int, ...]:
        """The arguments that a call writes into."""
        return tuple(dict.fromkeys(copy.input for copy in self.copies))

    def symbols(self, arguments: Sequence[Any]) -> dict[str, int]:
        """The symbols' values in one call."""
        places = (*self.places, *self.elsewhere)
        return {place.symbol: int(arguments[place.argument].shape[place.dim]) for place in places}

    def outside(self, arguments: Sequence[Any]) -> str | None:
        """Which size lies outside what the plan was built for, in words; None if none does."""
        known: dict[str, int] = {}
        for symbol, argument, dim in self.places:
            size = int(arguments[argument].shape[dim])
            if known.setdefault(symbol, size) != size:
                return f"size {dim} of argument {argument} is {size}, elsewhere {known[symbol]}"
        for limit in self.limits:
            size = known[limit.symbol]
            if not limit.least <= size <= limit.most:
                return f"size {limit.symbol} is {size}; the plan was built for {limit.least} to {limit.most}"
        return None

    def _formulas(self) -> Iterator[Formula]:
        for made in self.outputs:
            yield from made.shape or ()
        for result in self.results:
            if isinstance(result, (Given, View)):
                yield from (*(result.sizes or ()), *(result.strides or ()))
            if isinstance(result, View):
                yield result.offset
            if isinstance(result, Size):
                yield result.formula

    def to_json(self) -> dict[str, Any]:
        """The mapping as a JSON object."""
        form = asdict(replace(self, program=CheckProgram()))
        form["program"] = self.program.to_json()
        form["results"] = [result_to_json(one) for one in self.results]
        plain: dict[str, Any] = json.loads(json.dumps({"schema": CALLING_SCHEMA, **form}))
        return plain

    @staticmethod
    def from_json(data: Any) -> Calling:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: another schema, or not such an object.
        """
        if not isinstance(data, Mapping) or data.get("schema") != CALLING_SCHEMA:
            raise ValueError(f"not a mapping of schema {CALLING_SCHEMA}")
        try:
            return Calling(
                arguments=int(data["arguments"]),
                inputs=tuple(Taken(**_tuples(one)) for one in data["inputs"]),
                outputs=tuple(Made(**_tuples(one)) for one in data["outputs"]),
                results=tuple(result_from_json(one) for one in data["results"]),
                copies=tuple(Copy(**one) for one in data["copies"]),
                limits=tuple(Limit(**one) for one in data["limits"]),
                elsewhere=tuple(Place(*one) for one in data["elsewhere"]),
                flag=data["flag"],
                program=CheckProgram.from_json(data["program"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a mapping of arguments: {error!r}") from error


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a data class: their sizes are tuples there, lists in JSON."""
    return {key: tuple(value) if key == "shape" and value is not None else value for key, value in data.items()}


def _below(index: int | None, count: int, what: str) -> None:
    if not (type(index) is int and 0 <= index < count):
        raise ValueError(f"{what} {index} of {count}")
