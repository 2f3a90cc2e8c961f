"""Sizes that differ from call to call: torch's formulas over symbols as nodes of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Mod, ModularIndexing, PythonMod
from torch.utils._sympy.functions import Max as TorchMax
from torch.utils._sympy.functions import Min as TorchMin

from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value

_FOLDS: dict[Any, str] = {TorchMax: "Max", TorchMin: "Min", sympy.Max: "Max", sympy.Min: "Min"}


class Symbols:
    """Where each size symbol of a region can be read.

    Attributes:
        places: a model input and the dimension that is this formula, by the formula's text.
    """

    def __init__(self, missing: Callable[[str], Value]) -> None:
        """Args:
        missing: a symbol that is in no place so far, by name, as a 0-d int64 value; may raise Refused.
        """
        self.places: dict[str, tuple[Value, int]] = {}
        self._missing = missing
        self._reckoned: dict[Any, int | Value] = {}

    def reckon(self, b: GraphBuilder, size: int | torch.SymInt, sources: Sequence[Value] = ()) -> int | Value:
        """A size as a number, or as a 0-d int64 value.

        Args:
            b: the builder.
            size: torch's; it is never guarded on.
            sources: values in which the size itself is looked for first.

        Raises:
            Refused: it depends on data, or its formula holds something besides ``+ * // % min max``.
        """
        if not isinstance(size, torch.SymInt):
            return int(size)
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        text = str(expression)
        for source in sources:
            if source.shape and text in source.symbols:
                return b.size(source, source.symbols.index(text))
        found = self._reckon(b, expression)
        return found if isinstance(found, int) else Value(found.name, found.dtype, (), (text,))

    def _reckon(self, b: GraphBuilder, expression: Any) -> int | Value:
        if expression not in self._reckoned:
            self._reckoned[expression] = self._work_out(b, expression)
        return self._reckoned[expression]

    def _work_out(self, b: GraphBuilder, expression: Any) -> int | Value:
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol or str(expression) in self.places:
            return self._read(b, str(expression))
        if expression.is_Pow and expression.exp.is_Integer and int(expression.exp) > 0:
            parts = [self._reckon(b, expression.base)] * int(expression.exp)
            return _fold(b, "Mul", parts)
        # In an order that does not depend on what torch calls its symbols: equal layers are equal models.
        args = expression.args
        if expression.is_Add or expression.is_Mul or expression.func in _FOLDS:
            args = sorted(args, key=lambda one: _key(one, list(self.places)))
        parts = [self._reckon(b, one) for one in args]
        if expression.is_Add:
            return _fold(b, "Add", parts)
        if expression.is_Mul:
            return _fold(b, "Mul", parts)
        if expression.func in _FOLDS:
            return _fold(b, _FOLDS[expression.func], parts)
        if expression.func in (FloorDiv, CleanDiv):
            return floor_divide(b, *(b.tensor(part, torch.int64) for part in parts))
        if expression.func in (Mod, PythonMod):
            return b.op("Mod", [b.tensor(part, torch.int64) for part in parts], torch.int64, ())
        if expression.func is ModularIndexing:
            base, divisor, modulus = (b.tensor(part, torch.int64) for part in parts)
            return b.op("Mod", [floor_divide(b, base, divisor), modulus], torch.int64, ())
        raise Refused(f"the size {expression} is not reckoned")

    def _read(self, b: GraphBuilder, name: str) -> Value:
        if name not in self.places:
            return self._missing(name)
        value, dim = self.places[name]
        size = b.size(value, dim)
        assert isinstance(size, Value)
        return size


def _key(expression: Any, places: Sequence[str]) -> str:
    """The text of a formula with its symbols named by the places at which they are read."""
    order = {name: place for place, name in enumerate(places)}
    named = {one: sympy.Symbol(f"k{order.get(str(one), len(order))}") for one in expression.free_symbols}
    return str(expression.xreplace(named))


def _fold(b: GraphBuilder, kind: str, parts: Sequence[int | Value]) -> Value:
    values = [b.tensor(part, torch.int64) for part in parts]
    if kind in ("Max", "Min"):
        return b.op(kind, values, torch.int64, ())
    total = values[0]
    for value in values[1:]:
        total = b.op(kind, [total, value], torch.int64, ())
    return total


def floor_divide(b: GraphBuilder, numerator: Value, denominator: Value) -> Value:
    """Integers divided and rounded down, as Python does; ONNX's Div rounds towards zero.

    Args:
        b: the builder.
        numerator: signed integers.
        denominator: of the same type; the two broadcast, the result has the numerator's rank or more.
    """
    shape = numerator.shape if numerator.rank >= denominator.rank else denominator.shape
    rest = b.op("Mod", [numerator, denominator], shape=shape)  # has the denominator's sign: Python's remainder
    return b.op("Div", [b.op("Sub", [numerator, rest], shape=shape), denominator], shape=shape)


__all__ = ["Symbols", "floor_divide"]
