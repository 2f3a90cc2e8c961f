"""How a model hangs on its region: which arguments it is fed, and how the region's results are made of its outputs.

Whoever runs the model needs neither torch's symbols nor the graph: sizes that differ from call to call are formulas
over named symbols, each read from an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.engines.base import Declined
from djinn_fx.engines.lowering.formulas import Formula, evaluate, evaluate_all
from djinn_fx.engines.ranges.program import CheckProgram


@dataclass(frozen=True, kw_only=True)
class Fed:
    """A model input.

    Attributes:
        name: in the model.
        place: the region's argument, by index.
        dtype: torch's name of the element type, without the prefix. A size is fed as a 0-d ``int64``.
        sizes: None for one that differs from call to call. The model takes it contiguous.
    """

    name: str
    place: int
    dtype: str
    sizes: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Given:
    """A region output that a model output holds.

    Attributes:
        output: which model output; each is used once.
        dtype: torch's name of the element type.
        sizes: of the result; None if the model output is the result as it is.
        strides: of the result, in elements; None with ``sizes``.
        dense: the model output is written in the order of the result's memory, so that the result is
            ``as_strided(output, sizes, strides)``; else ``empty_strided(sizes, strides).copy_(output)``.
    """

    output: int
    dtype: str
    sizes: tuple[Formula, ...] | None = None
    strides: tuple[Formula, ...] | None = None
    dense: bool = True


@dataclass(frozen=True, kw_only=True)
class Argument:
    """A region output that is an argument itself, after the copies."""

    place: int


@dataclass(frozen=True, kw_only=True)
class View:
    """A region output that shows the memory of an argument (after the copies), or of an earlier result.

    Attributes:
        place: the argument, by index; None if it shows a result.
        result: the region output, by index; None if it shows an argument.
        sizes: of the view.
        strides: in elements.
        offset: in elements, from the first element of what it shows.
    """

    place: int | None
    result: int | None
    sizes: tuple[Formula, ...]
    strides: tuple[Formula, ...]
    offset: Formula


@dataclass(frozen=True, kw_only=True)
class Same:
    """A region output that is the very object of an earlier one."""

    result: int


@dataclass(frozen=True, kw_only=True)
class Literal:
    """A region output that is the same in every call: None or a number."""

    value: int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Size:
    """A region output that is a number reckoned from sizes."""

    formula: Formula


Result = Given | Argument | View | Same | Literal | Size
_KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Given, Argument, View, Same, Literal, Size)}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A model's place in its region.

    Attributes:
        fed: the model's inputs, in its order.
        results: how each of the region's outputs is made, in order.
        mutated: pairs of an argument and a model output that is to be copied into it after the run; the output has
            the argument's dtype and sizes.
        outputs: how many outputs the model has.
        symbols: where each symbol of the formulas is read: an argument, and its dimension (None: the argument is
            itself the number).
        flag: the model output that says whether this call's values are such that the model computes what torch does; if
            not, nothing else of its outputs is to be used. None: they always are.
        writes_first: whether a run may write into arguments before the flag is read, as torch writes there again.
        program: what must hold of the arguments' whole numbers, and can be told before the call.
    """

    fed: tuple[Fed, ...]
    results: tuple[Result, ...]
    mutated: tuple[tuple[int, int], ...] = ()
    outputs: int = 0
    symbols: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    flag: int | None = None
    writes_first: bool = True
    program: CheckProgram = field(default_factory=CheckProgram)

    def check(self, outputs: Sequence[Any]) -> None:
        """Read the flag.

        Raises:
            Declined: it is down.
        """
        if self.flag is not None and not outputs[self.flag].item():
            raise Declined("an index is out of range, or a number beyond what the runtime computes as torch does")

    def read_symbols(self, args: Sequence[Any]) -> dict[str, int]:
        """The symbols' values in a call."""
        found: dict[str, int] = {}
        for name, (place, dim) in self.symbols.items():
            found[name] = int(args[place]) if dim is None else int(args[place].shape[dim])
        return found

    def write_back(self, outputs: Sequence[torch.Tensor], args: Sequence[Any]) -> None:
        """Copy what the region writes into its arguments."""
        for place, output in self.mutated:
            args[place].copy_(outputs[output])

    def assemble(self, outputs: Sequence[torch.Tensor], args: Sequence[Any]) -> list[Any]:
        """The region's results.

        Args:
            outputs: the model's, contiguous, each with memory of its own that the result may keep.
            args: the region's, all of them, written back to already.
        """
        symbols = self.read_symbols(args) if self.symbols else {}
        results: list[Any] = []
        for one in self.results:
            results.append(_result(one, outputs, args, symbols, results))
        return results

    def to_json(self) -> dict[str, Any]:
        """The signature as a JSON object."""
        return {
            "fed": [[one.name, one.place, one.dtype, list(one.sizes)] for one in self.fed],
            "results": [result_to_json(one) for one in self.results],
            "mutated": [list(pair) for pair in self.mutated],
            "outputs": self.outputs,
            "symbols": {name: list(where) for name, where in self.symbols.items()},
            "flag": self.flag,
            "writes_first": self.writes_first,
            "program": self.program.to_json(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        """The signature from :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return Signature(
            fed=tuple(Fed(name=n, place=p, dtype=d, sizes=tuple(s)) for n, p, d, s in data["fed"]),
            results=tuple(result_from_json(one) for one in data["results"]),
            mutated=tuple((place, output) for place, output in data["mutated"]),
            outputs=data["outputs"],
            symbols={name: (place, dim) for name, (place, dim) in data["symbols"].items()},
            flag=data["flag"],
            writes_first=data["writes_first"],
            program=CheckProgram.from_json(data["program"]),
        )


def _result(
    one: Result, outputs: Sequence[torch.Tensor], args: Sequence[Any], symbols: Mapping[str, int], made: list[Any]
) -> Any:
    if not isinstance(one, Given):
        return result_without_model(one, args, symbols, made)
    value = outputs[one.output]
    if one.sizes is None or one.strides is None:
        return value
    sizes, strides = evaluate_all(one.sizes, symbols), evaluate_all(one.strides, symbols)
    if one.dense:
        return value.as_strided(sizes, strides)
    return torch.empty_strided(sizes, strides, dtype=value.dtype, device=value.device).copy_(value)


def result_without_model(
    one: Argument | View | Same | Literal | Size, args: Sequence[Any], symbols: Mapping[str, int], made: Sequence[Any]
) -> Any:
    """A region output that no model output holds.

    Args:
        one: how it is made.
        args: the region's, written back to already.
        symbols: their values in this call.
        made: the region's outputs before it.
    """
    if isinstance(one, Argument):
        return args[one.place]
    if isinstance(one, Same):
        return made[one.result]
    if isinstance(one, Literal):
        return one.value
    if isinstance(one, Size):
        return evaluate(one.formula, symbols)
    base = made[one.result] if one.result is not None else args[one.place]  # type: ignore[index]
    offset = base.storage_offset() + evaluate(one.offset, symbols)
    return base.as_strided(evaluate_all(one.sizes, symbols), evaluate_all(one.strides, symbols), offset)


def result_to_json(one: Result) -> dict[str, Any]:
    """A result as a JSON object."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(one).items()}
    if isinstance(one, Literal) and isinstance(one.value, float) and not math.isfinite(one.value):
        values["value"] = {"float": str(one.value)}
    return {"kind": type(one).__name__.lower(), **values}


def result_from_json(data: Mapping[str, Any]) -> Result:
    """The result from :func:`result_to_json`.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    values: dict[str, Any] = {
        name: tuple(value) if name in ("sizes", "strides") and value is not None else value
        for name, value in data.items()
    }
    kind = _KINDS[values.pop("kind")]
    if isinstance(values.get("value"), dict):
        values["value"] = float(values["value"]["float"])
    made: Result = kind(**values)
    return made


__all__ = ["Argument", "Fed", "Given", "Literal", "Result", "Same", "Signature", "Size", "View"]
