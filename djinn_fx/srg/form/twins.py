"""Which ops of a graph are twins: alike from close by, so that what holds of one holds of all.

Layers repeat, and a graph of a thousand ops has a few dozen that differ. Twins call the same target with the same
literals, and the values that they read and make are alike: type, dtype, sizes, strides, offset, layout, device. Which
values these are, who made them and who owns the memory is each op's own. What has a size that differs from call to
call, or an argument that is no plain literal, has no twin.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.srg.graph import SRG, fake_value
from djinn_fx.srg.record import OpRecord, TensorMeta

#: Literals that are equal only if they are the same.
_PLAIN = frozenset([str, int, type(None), torch.dtype, torch.layout, torch.memory_format, torch.device])


class _Alone(Exception):
    """Has no twin."""


class Twins:
    """The twins of one graph.

    Args:
        srg: the graph.

    Attributes:
        values: a number for each value, the same for those that are alike.
        ops: likewise for each op.
        operands: of each op that may have twins, the nodes among its arguments in order, one given twice twice.
    """

    def __init__(self, srg: SRG) -> None:
        self.values: dict[Node, int] = {}
        self.ops: dict[Node, int] = {}
        self.operands: dict[Node, tuple[Node, ...]] = {}
        values: dict[Hashable, int] = {}
        ops: dict[Hashable, int] = {}
        for node in srg.nodes:
            record = srg.record(node)
            self.values[node] = values.setdefault(_value_look(node, record), len(values))
            if node.op == "call_function":
                self.ops[node] = ops.setdefault(self._op_look(node, record), len(ops))

    def _op_look(self, node: Node, record: OpRecord) -> Hashable:
        operands: list[Node] = []
        try:
            given = [self._given(one, operands) for one in node.args]
            if node.kwargs:
                given += [(key, self._given(node.kwargs[key], operands)) for key in sorted(node.kwargs)]
        except _Alone:
            return node
        self.operands[node] = tuple(operands)
        # By its identity: an overload's hash is worked out anew each time.
        return id(node.target), tuple(given), self.values[node], record.is_view, bool(record.mutates)

    def _given(self, value: Any, operands: list[Node]) -> Hashable:
        """What an argument looks like; of a value also whether it was given before, and as which."""
        kind = value.__class__
        if kind is Node:
            place = operands.index(value) if value in operands else len(operands)
            operands.append(value)
            return Node, self.values[value], place
        if kind in _PLAIN or isinstance(value, OpOverload):
            return value  # type: ignore[no-any-return]
        if kind is bool or kind is float:
            return kind, repr(value)
        if isinstance(value, (list, tuple)):
            return (kind, *[self._given(one, operands) for one in value])
        raise _Alone


def _value_look(node: Node, record: OpRecord) -> Hashable:
    """What a value looks like; the node itself where that cannot be told."""
    value, metas = fake_value(node), record.outputs
    if isinstance(value, torch.Tensor):
        if metas[0].is_symbolic:
            return node
        return _tensor_look(value, metas[0])
    if not isinstance(value, (list, tuple)) or len(value) != len(metas):
        return node
    parts = zip(value, metas, strict=True)
    if any(not isinstance(one, torch.Tensor) or meta.is_symbolic for one, meta in parts):
        return node
    return (type(value), *[_tensor_look(*pair) for pair in zip(value, metas, strict=True)])


def _tensor_look(value: torch.Tensor, meta: TensorMeta) -> Hashable:
    flags = (value.is_conj(), value.is_neg()) if meta.layout == "strided" else ()
    return (
        type(value),
        meta.shape,
        meta.dtype,
        meta.strides,
        meta.storage_offset,
        meta.layout,
        meta.device,
        meta.nbytes,
        flags,
    )
