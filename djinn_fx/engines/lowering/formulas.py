"""Torch's symbolic sizes as formulas that are kept, and the numbers that these give in a call.

Whoever runs what was compiled needs neither torch's symbols nor sympy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.lowering.refused import Refused

#: A number; the name of a symbol (``"k0"``); or an operator and its operands: ``["+", "k0", 1]``.
#: Operators: ``+ *`` (any number), ``// % - min max`` (two; Python's meaning).
Formula = int | str | list[Any]


def expression_of(size: Any) -> Any:
    """A size as a number or a sympy expression; it is never guarded on.

    Raises:
        Refused: it is a symbolic float or bool.
    """
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        return int(expression) if expression.is_number else expression
    if isinstance(size, (torch.SymFloat, torch.SymBool)):
        raise Refused(f"{size} is a symbolic {type(size).__name__[3:].lower()}, not a size")
    return int(size)


class Formulas:
    """Formulas over the symbols that a region's arguments tell.

    Attributes:
        used: the symbols that formulas asked for so far, and where each is read.
    """

    def __init__(self, arguments: Sequence[Any], tensors_only: bool = False) -> None:
        """Args:
        arguments: fake tensors, SymInts and whatever else, one per argument of the region.
        tensors_only: only sizes of tensors tell a symbol.
        """
        self._places: dict[str, tuple[int, int | None]] = {}
        self.used: dict[str, tuple[int, int | None]] = {}
        for place, argument in enumerate(arguments):
            if isinstance(argument, torch.SymInt) and not tensors_only:
                self._note(expression_of(argument), place, None)
            elif isinstance(argument, torch.Tensor):
                for dim, size in enumerate(argument.shape):
                    self._note(expression_of(size), place, dim)

    def _note(self, expression: Any, place: int, dim: int | None) -> None:
        if not isinstance(expression, int) and expression.is_Symbol:
            self._places.setdefault(str(expression), (place, dim))

    def where(self, name: str) -> tuple[int, int | None] | None:
        """The argument, and the dimension of it, that is this symbol."""
        return self._places.get(name)

    def of(self, size: Any) -> Formula:
        """A size as a formula.

        Raises:
            Refused: no argument tells a symbol of it, or it is reckoned in another way than sums, products, divisions.
        """
        return self._of(expression_of(size))

    def all_of(self, sizes: Sequence[Any]) -> tuple[Formula, ...]:
        """Several sizes."""
        return tuple(self.of(size) for size in sizes)

    def _of(self, expression: Any) -> Formula:
        if isinstance(expression, int):
            return expression
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol:
            name = str(expression)
            if name not in self._places:
                raise Refused(f"the size {name} is in none of the region's arguments")
            self.used[name] = self._places[name]
            return name
        kind = type(expression).__name__
        if kind in ("Add", "Mul"):
            return ["+" if kind == "Add" else "*", *map(self._of, expression.args)]
        if kind in ("Max", "Min"):
            first, *rest = map(self._of, expression.args)
            for other in rest:
                first = [kind.lower(), first, other]
            return first
        if kind in ("Pow", "PowByNatural") and expression.args[1].is_Integer and 0 < expression.args[1] <= 8:
            return ["*", *(self._of(expression.args[0]) for _ in range(int(expression.args[1])))]
        if kind in ("FloorDiv", "CleanDiv"):
            return ["//", *map(self._of, expression.args)]
        if kind in ("Mod", "PythonMod"):
            return ["%", *map(self._of, expression.args)]
        if kind == "ModularIndexing":
            base, divisor, modulus = map(self._of, expression.args)
            return ["%", ["//", base, divisor], modulus]
        raise Refused(f"a size is reckoned as {expression}")


def is_contiguous(sizes: Sequence[Any], strides: Sequence[Any]) -> bool:
    """Whether strides are those of a contiguous tensor, where that can be told; sizes of 1 count too."""
    wanted: Any = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if expression_of(stride) != wanted:
            return False
        # As torch does: a dimension without elements counts as one of size 1.
        size = expression_of(size)
        wanted = wanted * (max(size, 1) if isinstance(size, int) else size)
    return True


def evaluate(formula: Formula, symbols: Mapping[str, int]) -> int:
    """The value of a formula.

    Raises:
        KeyError: a symbol without a value.
        ValueError: not a formula.
    """
    if isinstance(formula, int):
        return formula
    if isinstance(formula, str):
        return symbols[formula]
    operator, *operands = formula
    values = [evaluate(one, symbols) for one in operands]
    if operator == "+":
        return sum(values)
    if operator == "*":
        return math.prod(values)
    first, second = values
    if operator == "-":
        return first - second
    if operator == "//":
        return first // second
    if operator == "%":
        return first % second
    if operator == "min":
        return min(first, second)
    if operator == "max":
        return max(first, second)
    raise ValueError(f"unknown operator {operator!r} in a size")


def evaluate_all(formulas: Sequence[Formula], symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The values of several formulas."""
    return tuple(evaluate(one, symbols) for one in formulas)
