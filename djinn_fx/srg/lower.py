"""Lowering: one semantic record on every node of an FX graph."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import GraphModule, Node

from djinn_fx.errors import LoweringError
from djinn_fx.srg.effects import written_nodes
from djinn_fx.srg.graph import SRG, attribute, fake_value, size_hint, tensors_of
from djinn_fx.srg.record import GraphKind, OpRecord, Residency, Size, TensorMeta

_STACK_LINE = re.compile(r'File "([^"]+)", line (\d+)')


def lower(
    gm: GraphModule,
    kind: GraphKind = GraphKind.INFERENCE,
    residency: Mapping[str, Residency] | None = None,
) -> SRG:
    """Put a record on every node of ``gm``.

    Args:
        gm: an ATen graph with fake values in ``meta["val"]``, as AOTAutograd or ``make_fx`` makes it.
        kind: which graph it is.
        residency: what each placeholder is, by node name; a placeholder not named is an input.

    Raises:
        LoweringError: a ``call_module`` or ``call_method`` node, which an ATen graph does not have.
    """
    srg = SRG(gm, kind)
    known = residency or {}
    storages: dict[Any, int] = {}
    for node in gm.graph.nodes:
        outputs = tuple(_tensor_meta(tensor, storages) for tensor in tensors_of(_value(gm, node)))
        mutates = tuple(one.name for one in written_nodes(node))
        srg.set_record(
            node,
            OpRecord(
                op=op_name(node),
                outputs=outputs,
                is_view=_is_view(node, outputs, srg),
                mutates=mutates,
                residency=_residency(node, known),
                source=source_of(node),
            ),
        )
    return srg


def _value(gm: GraphModule, node: Node) -> Any:
    value = fake_value(node)
    if value is None and node.op == "get_attr":
        # A constant tensor that the tracer did not annotate still has a size and a dtype.
        value = attribute(gm, node.target)
    return value


def op_name(node: Node) -> str:
    """Qualified, stable name of what a node calls; the fx opcode for placeholders, attributes and the output.

    Raises:
        LoweringError: a node kind that an ATen graph does not have.
    """
    if node.op in ("placeholder", "output", "get_attr"):
        return node.op
    if node.op != "call_function":
        raise LoweringError(
            f"node {node.name!r} is a {node.op}; the SRG is made from ATen graphs "
            f"(use torch.compile, torch.export or make_fx). At {source_of(node) or 'unknown line'}"
        )
    return target_name(node.target)


def target_name(target: Any) -> str:
    """Qualified name of a call target: ``aten.mm.default``, ``operator.getitem``, ``higher_order.cond``."""
    if isinstance(target, OpOverload):
        return str(target)
    if isinstance(target, HigherOrderOperator):
        return f"higher_order.{target.name()}"
    module = getattr(target, "__module__", None) or type(target).__module__
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", repr(target))
    return f"{'operator' if module == '_operator' else module}.{name}"


def source_of(node: Node) -> str | None:
    """The user's file:line a node came from: the innermost frame of its stack trace."""
    trace = node.meta.get("stack_trace")
    if not trace:
        return None
    frames = _STACK_LINE.findall(trace)
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else None


def _size(size: int | torch.SymInt) -> Size:
    """A size as plain data. A symbolic integer that stands for a number (a duck-shaped stride) is that number."""
    if type(size) is int:
        return size
    if not isinstance(size, torch.SymInt):
        return int(size)
    expr = size.node.expr
    return int(expr) if isinstance(expr, int) or expr.is_number else _expression_text(expr)


@functools.lru_cache(maxsize=8192)
def _expression_text(expr: Any) -> str:
    """An expression as text; printing one takes sympy 70 us, and a graph has few different ones."""
    return str(expr)


def _tensor_meta(tensor: torch.Tensor, storages: dict[Any, int]) -> TensorMeta:
    strided = tensor.layout is torch.strided
    shape = tuple(_size(s) for s in tensor.shape)
    strides = tuple(_size(s) for s in tensor.stride()) if strided else ()
    offset = _size(tensor.storage_offset()) if strided else 0
    identity: Any = tensor.untyped_storage()._cdata if strided else id(tensor)
    return TensorMeta(
        shape=shape,
        dtype=str(tensor.dtype).removeprefix("torch."),
        strides=strides,
        device=str(tensor.device),
        layout=str(tensor.layout).removeprefix("torch."),
        storage_offset=offset,
        storage=storages.setdefault(identity, len(storages)),
        nbytes=math.prod(size_hint(s) for s in tensor.shape) * tensor.element_size(),
        is_symbolic=any(isinstance(s, str) for s in (*shape, *strides, offset)),
    )


def _is_view(node: Node, outputs: tuple[TensorMeta, ...], srg: SRG) -> bool:
    """Whether a value shares memory with an input: by the op's schema, or because the fake storages are one."""
    if node.op != "call_function" or not outputs:
        return False
    if isinstance(node.target, OpOverload) and any(r.alias_info for r in node.target._schema.returns):
        return True
    if node.target is operator.getitem:
        producer = node.args[0]
        return isinstance(producer, Node) and srg.record(producer).is_view
    mine = {meta.storage for meta in outputs}
    return any(meta.storage in mine for source in node.all_input_nodes for meta in srg.record(source).outputs)


def _residency(node: Node, known: Mapping[str, Residency]) -> Residency:
    if node.op == "placeholder":
        return known.get(node.name, Residency.INPUT)
    return Residency.CONSTANT if node.op == "get_attr" else Residency.ACTIVATION
