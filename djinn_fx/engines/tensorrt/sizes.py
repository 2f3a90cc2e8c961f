"""Sizes: from torch's symbols to the network's, and the ranges these may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.tensorrt.conversion import Formula, Options
from djinn_fx.engines.tensorrt.network import Dim, Range
from djinn_fx.engines.tensorrt.support import Refused

#: The largest size TensorRT has.
_LARGEST = 2**31 - 1


def _expression(size: Any) -> Any:
    """A size as a number or a sympy expression."""
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        return int(expression) if expression.is_number else expression
    if isinstance(size, (torch.SymFloat, torch.SymBool)):
        raise Refused(f"{size} is a symbolic {type(size).__name__[3:].lower()}, not a size")
    return int(size)


def text_of(formula: Formula) -> Dim:
    """A formula as a size in a description."""
    if not isinstance(formula, list):
        return formula
    operator, *operands = formula
    return f"({f' {operator} '.join(str(text_of(one)) for one in operands)})"


class Sizes:
    """The symbols of a region's network.

    Every distinct size of an input that is no number gets a name, ``k0``, ``k1``, … in the order of the inputs. A size
    that is reckoned from symbols is a formula over those names.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._names: dict[Any, str] = {}
        self._values: dict[str, torch.SymInt] = {}
        #: For each name, the network input and dimension to read it from.
        self.places: dict[str, tuple[int, int]] = {}

    def declare(self, number: int, shape: Sequence[Any]) -> tuple[Dim, ...]:
        """Take note of a network input; its sizes as the description has them."""
        sizes: list[Dim] = []
        for axis, size in enumerate(shape):
            expression = _expression(size)
            if isinstance(expression, int):
                sizes.append(expression)
                continue
            if expression not in self._names:
                name = f"k{len(self._names)}"
                self._names[expression] = name
                self._values[name] = size
                self.places[name] = (number, axis)
            sizes.append(self._names[expression])
        return tuple(sizes)

    def formula(self, size: Any) -> Formula:
        """A size over the network's symbols.

        Raises:
            Refused: no input tells a symbol of it, or it is reckoned in a way that layers cannot.
        """
        return self._formula(_expression(size))

    def formulas(self, shape: Sequence[Any]) -> tuple[Formula, ...]:
        """Several sizes."""
        return tuple(self.formula(size) for size in shape)

    def _formula(self, expression: Any) -> Formula:
        if isinstance(expression, int):
            return expression
        if expression in self._names:
            return self._names[expression]
        if expression.is_Integer:
            return int(expression)
        kind = type(expression).__name__
        operands = expression.args
        if kind in ("Add", "Mul", "Max", "Min"):
            # In an order that does not depend on what torch calls its symbols: equal layers are equal networks.
            first, *rest = sorted((self._formula(one) for one in operands), key=repr)
            if kind in ("Add", "Mul"):
                return ["+" if kind == "Add" else "*", first, *rest]
            for other in rest:
                first = [kind.lower(), first, other]
            return first
        if kind in ("Pow", "PowByNatural") and operands[1].is_Integer and 0 < operands[1] <= 8:
            return ["*", *(self._formula(operands[0]) for _ in range(int(operands[1])))]
        if kind in ("FloorDiv", "CleanDiv"):
            return ["//", *map(self._formula, operands)]
        if kind in ("Mod", "PythonMod"):
            return ["%", *map(self._formula, operands)]
        if kind == "ModularIndexing":
            base, divisor, modulus = map(self._formula, operands)
            return ["%", ["//", base, divisor], modulus]
        if expression.is_Symbol:
            raise Refused(f"the size {expression} is no tensor's size: nothing tells it to the network")
        raise Refused(f"a size reckoned as {expression}")

    def ranges(self) -> dict[str, Range]:
        """What each name may be: torch's bounds, with an open end closed by the options."""
        return {name: self._range(value) for name, value in self._values.items()}

    def _range(self, value: torch.SymInt) -> Range:
        from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

        environment, expression = value.node.shape_env, value.node.expr
        bounds = {symbol: self._bounds(environment, symbol) for symbol in expression.free_symbols}
        found = bound_sympy(expression, {symbol: ValueRanges(low, high) for symbol, (low, _, high) in bounds.items()})
        least, most = max(1, int(found.lower)), min(_LARGEST, int(found.upper))
        usual = int(expression.xreplace({symbol: middle for symbol, (_, middle, _) in bounds.items()}))
        return Range(least=least, usual=min(max(usual, least), most), most=max(most, least))

    def _bounds(self, environment: Any, symbol: Any) -> tuple[int, int, int]:
        """Of a symbol: the least, the usual and the most.

        Usual is the example's size, up to the next power of two: examples of about the same size share a plan.
        """
        known = environment.var_to_range.get(symbol)
        values = environment.backed_var_to_val
        hint = int(values[symbol]) if symbol in values else 1
        usual = 1 << max(0, hint - 1).bit_length()
        least = int(known.lower) if known is not None and known.lower.is_Integer else 1
        least = max(1, least)
        most = self._options.growth * max(usual, least)
        if known is not None and known.upper.is_Integer:
            most = min(most, int(known.upper))
        return least, min(max(usual, least), max(most, hint)), max(most, hint)

    def signs(self, size: Any) -> tuple[bool, bool]:
        """Whether a number is known never to be negative, and whether it is known always to be."""
        from torch.utils._sympy.value_ranges import bound_sympy

        if not isinstance(size, torch.SymInt):
            return int(size) >= 0, int(size) < 0
        ranges = {s: size.node.shape_env.var_to_range[s] for s in size.node.expr.free_symbols}
        found = bound_sympy(size.node.expr, ranges)
        return bool(found.lower >= 0), bool(found.upper < 0)
