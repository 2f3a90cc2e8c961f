"""Sizes and bytes that differ from call to call, as texts over ``k0``, ``k1``, ...: written, and worked out."""

from __future__ import annotations

import operator
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from djinn_fx.srg.form.expressions import parse_size

FUNCTIONS = {"Max": max, "Min": min, "Mod": operator.mod, "PythonMod": operator.mod}


def size_text(size: Any, names: Mapping[Any, Any]) -> int | str | None:
    """A size as a number or a text over names; None where only the run tells it, or by a function not known here.

    Args:
        size: a number or a torch.SymInt.
        names: a sympy symbol ``k0``, ... for each of the graph's own.
    """
    if type(size) is int:
        return size
    if not isinstance(size, torch.SymInt):
        return None
    text = str(size.node.expr.xreplace(names))
    try:
        parse_size(text, {str(symbol): symbol for symbol in names.values()})
    except ValueError:
        return None
    return text


def sizes_in(places: Sequence[tuple[int, int | None]], arguments: Sequence[Any]) -> tuple[int, ...]:
    """The values of ``k0``, ``k1``, ... in a call.

    Args:
        places: argument and dimension of each, None for the argument itself.
        arguments: of the call.
    """
    return tuple(arguments[place] if dim is None else arguments[place].shape[dim] for place, dim in places)


def worked_out(text: int | str, values: Mapping[str, int]) -> Any:
    """What a text of :func:`size_text`, or several in a tuple, comes to."""
    return text if isinstance(text, int) else eval(_code(text), {"__builtins__": {}, **FUNCTIONS}, dict(values))


@lru_cache(maxsize=4096)
def _code(text: str) -> types.CodeType:
    """A text as code: sizes, integers, ``+ - * // %`` and the functions above, as was checked where it was written."""
    return compile(text, "<sizes>", "eval")
