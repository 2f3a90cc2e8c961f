"""The support table: which ATen ops are converted, for which types, and what is refused before any layer is written.

A converter is entered by :func:`converts`. What the table says is checked first; a converter refuses the rest itself,
by raising :class:`Refused`: a value of an argument that TensorRT has no equal for is a refusal, never a near miss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from djinn_fx.engines.tensorrt.network import DTYPE_BYTES, MAX_RANK
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import source_of, target_name

if TYPE_CHECKING:
    from djinn_fx.engines.tensorrt.call import Call
    from djinn_fx.engines.tensorrt.emitter import Emitter

FLOATS = frozenset({"float32", "float16", "bfloat16"})
INTEGERS = frozenset({"int64", "int32"})
NUMBERS = FLOATS | INTEGERS
ALL = NUMBERS | {"bool"}


class Refused(Exception):
    """This op, with these arguments, is not converted; the text says why."""


Converter = Callable[["Emitter", "Call"], Any]


@dataclass(frozen=True, kw_only=True)
class Support:
    """One row of the table.

    Attributes:
        op: qualified name, ``"aten.add.Tensor"``.
        convert: writes the layers and gives the op's value.
        types: element types its tensors may have.
        results: element types its results may have.
        unused: outputs nobody may read, by index: TensorRT does not compute them.
    """

    op: str
    convert: Converter
    types: frozenset[str]
    results: frozenset[str]
    unused: frozenset[int] = frozenset()


#: Ops that take a tensor without elements for nothing.
_JOINS = ("aten.cat.default", "aten.concatenate.default")

TABLE: dict[str, Support] = {}


def converts(
    *ops: str,
    types: frozenset[str] = ALL,
    results: frozenset[str] = ALL,
    unused: frozenset[int] = frozenset(),
) -> Callable[[Converter], Converter]:
    """Enter a converter for these ops; ``aten.`` may be left away."""

    def enter(convert: Converter) -> Converter:
        for op in ops:
            name = op if op.startswith("prims.") else f"aten.{op}"
            assert name not in TABLE, f"{name} has two converters"
            TABLE[name] = Support(op=name, convert=convert, types=types, results=results, unused=unused)
        return convert

    return enter


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name of an element type without the prefix."""
    return str(dtype).removeprefix("torch.")


def is_known(node: Node) -> bool:
    """Whether the table has a node's op."""
    name = target_name(node.target)
    return name in TABLE or functional_name(name) in TABLE


def look_up(node: Node, narrowed: frozenset[Node] = frozenset()) -> Support:
    """The row of a node's op, its types, ranks and sizes checked.

    Args:
        node: a call.
        narrowed: nodes that are a float64 number in the graph, and a float32 one in the network.

    Raises:
        Refused: the op is not in the table, or not for these tensors.
    """
    name = target_name(node.target)
    support = TABLE.get(name) or TABLE.get(functional_name(name))
    if support is None:
        raise Refused("there is no converter for it" if _is_pure(node) else "it has effects, or no converter")
    for source in node.all_input_nodes:
        if source in narrowed or (name in _JOINS and is_empty(fake_value(source))):
            continue
        for index, tensor in enumerate(tensors_of(fake_value(source))):
            check_tensor(tensor, support.types, f"{source.name}" + (f", part {index}" if index else ""))
    value = fake_value(node)
    results = tensors_of(value)
    if not results:
        raise Refused("it gives no tensor")
    for index, tensor in enumerate(results):
        if index not in support.unused and node not in narrowed:
            check_tensor(tensor, support.results, "its result")
    for user in node.users:
        taken = user.args[1] if target_name(user.target) == "operator.getitem" else None
        if isinstance(value, (tuple, list)) and taken in support.unused and user.users:
            raise Refused(f"its output {taken} is read, which TensorRT does not compute")
    return support


def is_empty(value: Any) -> bool:
    """Whether a value is a tensor known to have no elements."""
    return isinstance(value, torch.Tensor) and any(isinstance(size, int) and size == 0 for size in value.shape)


def functional_name(name: str) -> str:
    """The op without its effect: ``aten.add_.Tensor`` is ``aten.add.Tensor`` with the result written back."""
    base, _, overload = name.rpartition(".")
    return f"{base[:-1]}.{overload}" if base.endswith("_") and not base.endswith("__") else name


def _is_pure(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable


def check_tensor(tensor: torch.Tensor, types: frozenset[str], what: str) -> None:
    """A tensor TensorRT can hold, of an allowed type.

    Raises:
        Refused: it is not.
    """
    name = dtype_name(tensor.dtype)
    if name not in DTYPE_BYTES:
        raise Refused(f"{what} is {name}, which TensorRT does not have with torch's meaning")
    if name not in types:
        raise Refused(f"{what} is {name}; converted for {', '.join(sorted(types))}")
    if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        raise Refused(f"{what} has layout {tensor.layout}, or is a lazy conjugate or negative")
    if tensor.dim() > MAX_RANK:
        raise Refused(f"{what} has {tensor.dim()} dimensions, TensorRT's limit is {MAX_RANK}")
    if is_empty(tensor):
        raise Refused(f"{what} has no elements")


def refusal(node: Node | None, detail: str, stage: str = "support", label: str | None = None) -> Reason:
    """The Reason that says so: stage, op, node and the user's line."""
    if node is None:
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"tensorrt, {stage}: {detail}", node=label)
    line = source_of(node)
    op = target_name(node.target) if node.op == "call_function" else node.op
    where = f" (at {line})" if line else ""
    return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"tensorrt, {stage}: {op}: {detail}{where}", node=node.name)
