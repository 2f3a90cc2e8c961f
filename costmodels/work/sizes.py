"""A graph's tensors with numbers for sizes: the example's, given ones, or expressions of the graph's symbols.

A record holds a symbolic size as text (``"2*s0"``). Texts are parsed by Python's own parser and worked out node by
node; nothing of them is run as code.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node
from torch.utils._sympy.functions import CeilToInt, CleanDiv, FloorDiv, FloorToInt, Max, Min, Mod, PythonMod

from djinn_fx.srg.form.twins import Twins
from djinn_fx.srg.graph import SRG, fake_value, size_hint, tensors_of
from djinn_fx.srg.record import OpRecord, TensorMeta

_NUMBERS: dict[str, Callable[..., Any]] = {
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "floor": math.floor,
    "ceiling": math.ceil,
    "ToFloat": float,
    "TruncToInt": int,
    "IntTrueDiv": operator.truediv,
    "FloatTrueDiv": operator.truediv,
    "log2": math.log2,
    "Identity": lambda value: value,
    "//": operator.floordiv,
}
_EXPRESSIONS: dict[str, Callable[..., Any]] = {
    **_NUMBERS,
    "Max": Max,
    "Min": Min,
    "Mod": Mod,
    "PythonMod": PythonMod,
    "FloorDiv": FloorDiv,
    "CleanDiv": CleanDiv,
    "FloorToInt": FloorToInt,
    "CeilToInt": CeilToInt,
    "//": FloorDiv,
}
#: log2 in an expression; sympy only carries it.
_log2 = sympy.Function("log2")
_EXPRESSIONS["log2"] = _log2

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@functools.lru_cache(maxsize=8192)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def symbols_of(text: str) -> set[str]:
    """The names of the symbols in a size's text."""
    functions = {
        node.func.id
        for node in ast.walk(_parsed(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return {node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name)} - functions


def worked_out(text: str, values: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] = _NUMBERS) -> Any:
    """The value of a size's text.

    Args:
        text: e.g. ``"2*s0 + 1"``, ``"(s0//2)"``, ``"Max(1, s0)"``.
        values: a value for each symbol.
        functions: what the names of functions mean.

    Raises:
        ValueError: a symbol without a value, or something that has no place in a size; names it.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in values:
                raise ValueError(f"no size is given for {node.id} (in {text!r})")
            return values[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            how = functions["//"] if isinstance(node.op, ast.FloorDiv) else _OPERATORS.get(type(node.op))
            if how is not None:
                return how(value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            return functions[node.func.id](*map(value, node.args))
        raise ValueError(f"{ast.unparse(node)!r} has no place in a size (in {text!r})")

    return value(_parsed(text))


class Sizes:
    """The tensors of one graph, every size a number (or an expression).

    Args:
        srg: the graph.
        values: a value for each symbol; None: the example's sizes, read from the fake values.
        functions: with ``values``: what the functions in sizes mean.
        hints: where the values are expressions: the same graph at the example's sizes, which decides every branch.
    """

    __slots__ = (
        "_functions",
        "_metas",
        "_texts",
        "hints",
        "kept",
        "known_roots",
        "priced",
        "srg",
        "touched",
        "twins",
        "values",
    )

    def __init__(
        self,
        srg: SRG,
        values: Mapping[str, Any] | None = None,
        functions: Mapping[str, Callable[..., Any]] = _NUMBERS,
        hints: Sizes | None = None,
    ) -> None:
        self.srg = srg
        self.values = values
        self.hints = hints
        self.touched: dict[Node, Any] = {}  # filled by traffic
        self.twins = srg.fact(Twins).ops
        self.priced: dict[tuple[int, ...], tuple[Any, Any, list[int]]] = {}  # by work_of: of one op of each sort
        self.kept: tuple[Any, Any] | None = None  # by flow: the whole graph's work and what it depends on
        self._functions = functions
        self._metas: dict[Node, tuple[TensorMeta, ...]] = {}
        self.known_roots: dict[Node, Node] = {}
        self._texts: dict[str, Any] = {}

    def of_body(self, srg: SRG) -> Sizes:
        """The tensors of a graph that a call of this one runs: its symbols have the same names."""
        hints = None if self.hints is None else self.hints.of_body(srg)
        return Sizes(srg, self.values, self._functions, hints)

    def outputs(self, node: Node) -> tuple[TensorMeta, ...]:
        """The tensors a node produces."""
        found = self._metas.get(node)
        if found is None:
            found = self.srg.record(node).outputs
            for meta in found:
                if meta.is_symbolic:
                    found = self._resolved(node, found)
                    break
            self._metas[node] = found
        return found

    def _resolved(self, node: Node, metas: tuple[TensorMeta, ...]) -> tuple[TensorMeta, ...]:
        if self.values is not None:
            return tuple(map(self._by_values, metas))
        tensors = tensors_of(fake_value(node))
        return tuple(_by_hints(meta, tensor) for meta, tensor in zip(metas, tensors, strict=True))

    def _by_values(self, meta: TensorMeta) -> TensorMeta:
        if not meta.is_symbolic:
            return meta
        shape = tuple(map(self._size, meta.shape))
        return replace(
            meta,
            shape=shape,
            strides=tuple(map(self._size, meta.strides)),
            nbytes=math.prod(shape) * item_bytes(meta.dtype),
        )

    def _size(self, size: int | str) -> Any:
        if type(size) is int:
            return size
        text = str(size)
        if text not in self._texts:
            self._texts[text] = _whole(worked_out(text, self.values or {}, self._functions))
        return self._texts[text]

    def argument(self, value: Any) -> Any:
        """An argument of a call as a rule wants it: a tensor as its record says, a symbolic size as a number."""
        if isinstance(value, Node):
            outputs = self.outputs(value)
            if outputs:
                return outputs[0] if len(outputs) == 1 else list(outputs)
            return self.argument(fake_value(value))
        if isinstance(value, torch.SymInt):
            return size_hint(value) if self.values is None else self._size(str(value.node.expr))
        if isinstance(value, (list, tuple)):
            return [self.argument(item) for item in value]
        return value

    def is_view(self, node: Node, record: OpRecord) -> bool:
        """Whether a value is only another view of memory that its op was given."""
        if not record.is_view or record.mutates:
            return False
        if not record.op.startswith(_MAY_COPY):
            return True
        storages = {meta.storage for meta in record.outputs}
        return any(
            meta.storage in storages for source in node.all_input_nodes for meta in self.srg.record(source).outputs
        )

    def root(self, node: Node) -> Node:
        """The node whose memory a value is part of: looks through views and the unpacking of tuples."""
        found = self.known_roots.get(node)
        if found is None:
            found = node
            if node.op == "call_function":
                record = self.srg.record(node)
                if node.target is operator.getitem:
                    found = self.root(node.all_input_nodes[0])
                elif record.is_view and self.is_view(node, record):
                    found = self.root(_shared(self.srg, record, node.all_input_nodes))
            self.known_roots[node] = found
        return found


#: Composite ops whose schema says view, but that copy where the strides ask for it.
_MAY_COPY = ("aten.reshape.", "aten.contiguous.", "aten.to.", "aten.flatten.", "aten.type_as.")


def _shared(srg: SRG, record: OpRecord, sources: list[Node]) -> Node:
    storages = {meta.storage for meta in record.outputs}
    for source in sources:
        if any(meta.storage in storages for meta in srg.record(source).outputs):
            return source
    return sources[0]


def _by_hints(meta: TensorMeta, tensor: torch.Tensor) -> TensorMeta:
    if not meta.is_symbolic:
        return meta
    strides = tuple(size_hint(size) for size in tensor.stride()) if meta.strides else ()
    return replace(meta, shape=tuple(size_hint(size) for size in tensor.shape), strides=strides)


#: Calls of another op, which is their first or second argument.
_WRAPPERS = frozenset(["auto_functionalized", "auto_functionalized_v2", "with_effects", "out_dtype"])


def wrapped_op(node: Node) -> OpOverload | None:
    """The op that a wrapping call runs: ``auto_functionalized(op, ...)``, ``with_effects(token, op, ...)``."""
    if not isinstance(node.target, HigherOrderOperator) or node.target.name() not in _WRAPPERS:
        return None
    return next((argument for argument in node.args[:2] if isinstance(argument, OpOverload)), None)


def _whole(number: Any) -> Any:
    return round(number) if isinstance(number, float) else number


@functools.lru_cache(maxsize=256)
def item_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        ValueError: torch has no such dtype.
    """
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{dtype!r} is no dtype of torch")
    return found.itemsize


def times_log2(count: Any, number: Any) -> Any:
    """``count * log2(number)``, rounded down; a number below 2 counts as 2."""
    if isinstance(count, int) and isinstance(number, int):
        return math.floor(count * math.log2(max(2, number)))
    return sympy.floor(count * _log2(Max(2, number)))


def expression_functions() -> Mapping[str, Callable[..., Any]]:
    """What the functions in sizes mean where the values are sympy expressions."""
    return _EXPRESSIONS
