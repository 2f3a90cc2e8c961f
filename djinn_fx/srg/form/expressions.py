"""Reading back expressions over sizes, which a canonical form holds as text: ``k0*2``, ``((k0 + 1)//2)``.

The text is parsed by Python's own parser and built up node by node; nothing of it is evaluated as code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod
from torch.utils._sympy.numbers import int_oo

_NAME = re.compile(r"k\d{1,6}")
_INTEGER = re.compile(r"-?\d{1,20}")
_MAX_TEXT = 4000
_MAX_EXPONENT = 16

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: FloorDiv,
}
_FUNCTIONS: dict[str, Any] = {"Max": Max, "Min": Min, "Mod": Mod, "PythonMod": PythonMod}


def parse_size(text: str, symbols: Mapping[str, Any]) -> Any:
    """The sympy expression a text stands for.

    Args:
        text: integers, the names of symbols, ``+ - * // **``, ``Max``, ``Min``, ``Mod``, ``PythonMod``.
        symbols: for each name (``k0``) its sympy symbol.

    Raises:
        ValueError: anything else.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError(f"an expression of {len(text)} characters")
    try:
        return _built(ast.parse(text, mode="eval").body, symbols)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:80]!r} is no expression over sizes") from error


def _built(node: ast.expr, symbols: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 2**64:
        return sympy.Integer(node.value)
    if isinstance(node, ast.Name) and _NAME.fullmatch(node.id) and node.id in symbols:
        return symbols[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_built(node.operand, symbols)
    if isinstance(node, ast.BinOp):
        return _binary(node, symbols)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        if function is not None and len(node.args) >= 2:
            return function(*(_built(argument, symbols) for argument in node.args))
    raise ValueError(f"{ast.unparse(node)[:80]!r} has no place in an expression over sizes")


def _binary(node: ast.BinOp, symbols: Mapping[str, Any]) -> Any:
    if isinstance(node.op, ast.Pow):
        base, power = _built(node.left, symbols), node.right
        # A power of a power of a number is how a short text asks for more memory than there is.
        if base.is_number or not isinstance(power, ast.Constant) or power.value not in range(_MAX_EXPONENT + 1):
            raise ValueError("a power that is not a small one of a size")
        return base**power.value
    combine = _OPERATORS.get(type(node.op))
    if combine is None:
        raise ValueError(f"{type(node.op).__name__} of sizes")
    return combine(_built(node.left, symbols), _built(node.right, symbols))


def parse_bound(text: str) -> Any:
    """A bound of a symbol: an integer, or infinity as torch writes it for integers.

    Raises:
        ValueError: anything else.
    """
    if text in ("int_oo", "-int_oo"):
        return int_oo if text == "int_oo" else -int_oo
    if _INTEGER.fullmatch(text):
        return sympy.Integer(int(text))
    raise ValueError(f"{text[:80]!r} is no bound of a size")
