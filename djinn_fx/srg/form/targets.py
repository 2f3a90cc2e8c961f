"""From the name of what a node calls, as a canonical form holds it, back to what it calls."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Functions of Python and torch that occur in ATen graphs, on sizes and on the results of ops.
_FUNCTIONS: dict[str, Any] = {
    f"operator.{name}": getattr(operator, name)
    for name in (
        "getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "pos", "abs",
        "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "not_", "lshift", "rshift",
    )
} | {
    f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt", "log2", "pow")
} | {
    f"torch.{name}": getattr(torch, name)
    for name in (
        "sym_float", "sym_int", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sum",
        "_sym_sqrt", "_sym_log2", "_sym_cos", "_sym_cosh", "_sym_sin", "_sym_sinh", "_sym_tan", "_sym_tanh",
        "_sym_acos", "_sym_asin", "_sym_atan",
    )
    if hasattr(torch, name)
}  # fmt: skip

#: Higher-order ops whose bodies are in the form; the others run code that is not.
_HIGHER_ORDER = frozenset({"cond", "while_loop", "scan", "associative_scan", "map_impl", "invoke_subgraph"})

#: Operators that reach outside the process when they are only asked for their result's shape.
_REFUSED = frozenset({"aten.from_file"})


class CannotRebuild(Exception):
    """A canonical form, or a name in it, from which nothing equal can be made here; the message says why."""


def find_target(name: str) -> Any:
    """What a node with that target name calls.

    Raises:
        CannotRebuild: an operator that is not registered in this process, or no name of anything a graph may call.
    """
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    family, _, rest = name.partition(".")
    if family == "higher_order":
        found = getattr(torch.ops.higher_order, rest, None) if rest in _HIGHER_ORDER else None
        if isinstance(found, HigherOrderOperator):
            return found
        raise CannotRebuild(f"the higher-order op {rest[:100]} cannot be rebuilt")
    return find_operator(name)


def find_operator(name: str) -> OpOverload:
    """The operator of a name such as ``aten.add.Tensor``.

    Raises:
        CannotRebuild: none is registered under it in this process.
    """
    family, _, rest = name.partition(".")
    base, _, overload = rest.rpartition(".")
    if all(_PART.fullmatch(part) for part in (family, base, overload)) and f"{family}.{base}" not in _REFUSED:
        packet = getattr(getattr(torch.ops, family), base, None) if family not in vars(type(torch.ops)) else None
        found = getattr(packet, overload, None) if isinstance(packet, OpOverloadPacket) else None
        # Operators of TorchScript's interpreter (aten.save writes a file) have no kernel that the dispatcher knows.
        if isinstance(found, OpOverload) and str(found) == name and torch._C._dispatch_has_kernel(found.name()):
            return found
    raise CannotRebuild(f"no operator {name[:100]} is known here")


def takes_tuples(target: Any) -> bool:
    """Whether sequences among its arguments are tuples; operators of torch take lists."""
    return not isinstance(target, OpOverload)
