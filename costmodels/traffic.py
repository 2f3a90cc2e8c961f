"""How many bytes an op reads and writes. Views move nothing; what is broadcast is read once."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from djinn_fx.costmodels.tables import names
from djinn_fx.srg.graph import SRG, fake_value, size_hint, tensors_of
from djinn_fx.srg.record import OpRecord, TensorMeta

#: Ops that read as much of their first input as they produce, not all of it: a row of a table for each index.
GATHERS = names(
    "aten.embedding aten.index aten._unsafe_index aten.gather aten.index_select aten.take aten.take_along_dim"
)
#: Ops that take a tensor for its shape and dtype only.
SHAPE_ONLY = names(
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty new_zeros
    new_ones new_full new_empty_strided""",
    "aten.",
)
#: Ops that overwrite their first input without reading it.
OVERWRITES = names(
    "copy_ fill_ zero_ uniform_ normal_ bernoulli_ random_ exponential_ set_ resize_",
    "aten.",
)
#: Ops that write a part of their first input in place, as much as their last tensor argument holds.
SCATTERS_IN_PLACE = names(
    """index_put_ _unsafe_index_put_ _index_put_impl_ index_copy_ index_add_ scatter_ scatter_add_
    scatter_reduce_""",
    "aten.",
)


def packet_name(op: str) -> str:
    """An op's name without its overload: ``"aten.add.Tensor"`` is ``"aten.add"``."""
    return op.rsplit(".", 1)[0]


def touched_bytes(meta: TensorMeta, tensor: torch.Tensor | None = None) -> int:
    """Bytes of memory behind a tensor: a broadcast dimension (stride 0) counts once.

    Args:
        meta: the tensor as recorded.
        tensor: its fake value, for the size of a symbolic broadcast dimension.
    """
    if 0 not in meta.strides or meta.nbytes == 0:
        return meta.nbytes
    shape = meta.shape if tensor is None else tuple(size_hint(size) for size in tensor.shape)
    repeats = [size for size, stride in zip(shape, meta.strides, strict=False) if stride == 0]
    return meta.nbytes // max(1, math.prod(size for size in repeats if isinstance(size, int)))


def node_bytes(srg: SRG, node: Node) -> int:
    """Bytes of memory behind all tensors of a node's value."""
    record = srg.record(node)
    if not any(0 in meta.strides for meta in record.outputs):
        return record.nbytes
    tensors = tensors_of(fake_value(node))
    if len(tensors) != len(record.outputs):
        return sum(map(touched_bytes, record.outputs))
    return sum(map(touched_bytes, record.outputs, tensors))


def traffic(srg: SRG, node: Node, record: OpRecord) -> tuple[int, int]:
    """Bytes read and bytes written by an op that is not a view."""
    name = packet_name(record.op)
    sources = node.all_input_nodes
    if name in SHAPE_ONLY:
        return 0, record.nbytes
    if name in GATHERS:
        return record.nbytes + sum(node_bytes(srg, source) for source in sources[1:]), record.nbytes
    if not record.mutates:
        return sum(node_bytes(srg, source) for source in sources), _fresh_bytes(srg, record, sources)
    if name in SCATTERS_IN_PLACE:
        return sum(node_bytes(srg, source) for source in sources[1:]), node_bytes(srg, sources[-1])
    written = [source for source in sources if source.name in record.mutates]
    read = [source for source in sources if name not in OVERWRITES or source.name not in record.mutates]
    return (
        sum(node_bytes(srg, source) for source in read),
        sum(node_bytes(srg, source) for source in written) + _fresh_bytes(srg, record, sources),
    )


def _fresh_bytes(srg: SRG, record: OpRecord, sources: list[Node]) -> int:
    """Bytes of the outputs that are new memory, not memory of an input."""
    if not record.is_view:
        return record.nbytes
    old = {meta.storage for source in sources for meta in srg.record(source).outputs}
    return sum(meta.nbytes for meta in record.outputs if meta.storage not in old)
