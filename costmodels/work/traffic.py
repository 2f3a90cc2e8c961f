"""How many bytes of memory an op reads and writes.

Views move nothing; what is broadcast is read once; a lookup reads the rows it looks up, not the table; what an op
takes for its shape only is not read. Memory between elements that lie closer than a cache line is moved with them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.fx import Node

from djinn_fx.costmodels.work.call import Call, numbers
from djinn_fx.costmodels.work.sizes import Sizes, item_bytes
from djinn_fx.costmodels.work.tables import names
from djinn_fx.srg.graph import SRG, fake_value, size_hint, tensors_of
from djinn_fx.srg.record import Residency, TensorMeta

#: Bytes that move together between memory and processor, on x86 and most Arm servers; GPUs move 32 or more.
LINE_BYTES = 64

#: Ops that read as much of their first input as they produce, not all of it: a row of a table for each index.
GATHERS = names(
    """aten.embedding aten.index aten._unsafe_index aten.gather aten.index_select aten.take aten.take_along_dim
    aten.masked_select aten._embedding_bag aten._embedding_bag_forward_only"""
)
#: Ops that take a tensor for its shape and dtype only.
SHAPE_ONLY = names(
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty new_zeros
    new_ones new_full new_empty_strided""",
    "aten.",
)
#: Ops that overwrite their first input without reading it.
OVERWRITES = names(
    "copy_ fill_ zero_ uniform_ normal_ bernoulli_ random_ exponential_ cauchy_ geometric_ log_normal_ set_ resize_",
    "aten.",
)
#: Ops that write a part of their first input in place, as much as their last tensor argument holds.
SCATTERS_IN_PLACE = names(
    """index_put_ _unsafe_index_put_ _index_put_impl_ index_copy_ index_add_ scatter_ scatter_add_
    scatter_reduce_ index_reduce_ put_""",
    "aten.",
)
#: Ops that copy their first input and write a part of the copy at places that only the data tell.
SCATTERS = names(
    """index_put _unsafe_index_put index_copy index_add scatter scatter_add scatter_reduce index_reduce put
    embedding_dense_backward""",
    "aten.",
)
#: Ops that step over their output element by element in its order: an input laid out otherwise is read in strides.
_IN_ORDER = frozenset({"elementwise", "copy", "random"})

#: What a model holds between calls: its parameters, buffers and constants.
_HELD = (Residency.PARAMETER, Residency.BUFFER, Residency.CONSTANT)


class Touched(NamedTuple):
    """Memory behind all tensors of one value.

    Attributes:
        nbytes: bytes, a broadcast dimension counted once.
        scattered: part of them in pieces smaller than a cache line, with gaps between.
        root: the node whose memory it is, if that is no call: an input or a constant.
    """

    nbytes: int
    scattered: int = 0
    root: Node | None = None


class Traffic(NamedTuple):
    """Bytes moved by one call.

    Attributes:
        reads: for each value read, its node, the bytes and whether the model holds it.
        write: bytes written.
        strided: part of all these that is not contiguous.
        gathered: part of all these at addresses that only the data tell.
    """

    reads: tuple[tuple[Node, int, bool], ...]
    write: int
    strided: int = 0
    gathered: int = 0


def packet_name(op: str) -> str:
    """An op's name without its overload: ``"aten.add.Tensor"`` is ``"aten.add"``."""
    return op.rsplit(".", 1)[0]


def touched_bytes(meta: TensorMeta, tensor: torch.Tensor | None = None) -> int:
    """Bytes of a tensor's elements at the example's sizes: a broadcast dimension (stride 0) counts once.

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
    """Bytes of the elements of all tensors of a node's value, at the example's sizes."""
    record = srg.record(node)
    if not any(0 in meta.strides for meta in record.outputs):
        return record.nbytes
    tensors = tensors_of(fake_value(node))
    if len(tensors) != len(record.outputs):
        return sum(map(touched_bytes, record.outputs))
    return sum(map(touched_bytes, record.outputs, tensors))


def touched(sizes: Sizes, node: Node) -> Touched:
    """Memory behind a node's value."""
    found: Touched | None = sizes.touched.get(node)
    if found is None:
        metas = sizes.outputs(node)
        if len(metas) == 1 and _is_packed(metas[0]):
            nbytes, scattered = metas[0].nbytes, 0
        else:
            hints = metas if sizes.hints is None else sizes.hints.outputs(node)
            parts = [memory_of(meta, hint) for meta, hint in zip(metas, hints, strict=True)]
            nbytes, scattered = sum(part[0] for part in parts), sum(part[1] for part in parts)
        root = sizes.root(node)
        found = sizes.touched[node] = Touched(nbytes, scattered, None if root.op == "call_function" else root)
    return found


def memory_of(meta: TensorMeta, hint: TensorMeta | None = None) -> tuple[int, int]:
    """Bytes behind a tensor, and how many of them are scattered.

    Sizes are numbers, or expressions beside numbers to decide by.

    Args:
        meta: the tensor.
        hint: the same with the example's numbers; None: ``meta`` holds numbers.
    """
    hint = hint or meta
    if not meta.strides or not hint.nbytes or _is_packed(hint):
        return meta.nbytes, 0
    item = item_bytes(meta.dtype)
    shape, strides = numbers(hint.shape), numbers(hint.strides)
    given, given_strides = numbers(meta.shape), numbers(meta.strides)
    run: int = item  # bytes without a gap as wide as a cache line, by the numbers
    here, pieces = item, 1  # the same, and how many of them, perhaps as expressions
    order = sorted(range(len(shape)), key=lambda dim: strides[dim])
    for dim in order:
        count, step = shape[dim], strides[dim]
        if count == 1 or step == 0:
            continue
        if step * item - run < LINE_BYTES:
            same = step * item == run
            run = run * count if same else (count - 1) * step * item + run
            size, stride = given[dim], given_strides[dim]
            here = here * size if same else (size - 1) * stride * item + here
        else:
            pieces = pieces * given[dim]
    nbytes = here * pieces
    small = run < LINE_BYTES and hint.nbytes > LINE_BYTES and pieces != 1
    return nbytes, nbytes if small else 0


def _is_packed(meta: TensorMeta) -> bool:
    """Whether a tensor is contiguous in the order of its dimensions, or has a layout without strides."""
    step = 1
    for size, stride in zip(numbers(meta.shape)[::-1], numbers(meta.strides)[::-1], strict=False):
        if stride != step and size != 1:
            return False
        step *= size
    return True


def is_weight(sizes: Sizes, node: Node) -> bool:
    """Whether a value is held by the model between calls, or is a view of such a one."""
    root = sizes.root(node)
    return root.op != "call_function" and sizes.srg.record(root).residency in _HELD


def traffic(call: Call, kind: str) -> Traffic:
    """Bytes that a call which is no view reads and writes."""
    sizes, record, name, sources = call.sizes, call.record, call.op, call.sources
    if name in SHAPE_ONLY:
        return Traffic((), touched(sizes, call.node).nbytes)
    if name in GATHERS and sources:
        return _gather(call, sources)
    if record.mutates:
        return _in_place(call, sources)
    strided = 0
    reads = []
    in_order = kind in _IN_ORDER and bool(record.outputs)
    row = in_order and record.outputs[0].strides[-1:] == (1,)
    known = sizes.touched
    for source in sources:
        memory = known.get(source) or touched(sizes, source)
        if memory.nbytes:
            root = memory.root
            held = root is not None and sizes.srg.record(root).residency in _HELD
            reads.append((source, memory.nbytes, held))
            if in_order and not (row and sizes.outputs(source)[0].strides[-1:] == (1,)) and _crosses(call, source):
                strided += memory.nbytes
            else:
                strided += memory.scattered
    write = _fresh(call, sources)
    gathered = touched(sizes, sources[-1]).nbytes if name in SCATTERS and sources else 0
    return Traffic(tuple(reads), write, strided, gathered)


def _gather(call: Call, sources: list[Node]) -> Traffic:
    """Rows of the first input, as many bytes as come out; the indices whole."""
    sizes = call.sizes
    rows = call.outputs[0].nbytes
    reads = [(sources[0], rows, is_weight(sizes, sources[0]))]
    reads += [(source, touched(sizes, source).nbytes, is_weight(sizes, source)) for source in sources[1:]]
    return Traffic(tuple(reads), touched(sizes, call.node).nbytes, gathered=rows)


def _in_place(call: Call, sources: list[Node]) -> Traffic:
    sizes, record, name = call.sizes, call.record, call.op
    if name in SCATTERS_IN_PLACE:
        part = touched(sizes, sources[-1]).nbytes
        reads = [(source, touched(sizes, source).nbytes, is_weight(sizes, source)) for source in sources[1:]]
        return Traffic(tuple(reads), part, gathered=part)
    written = [source for source in sources if source.name in record.mutates]
    read = [source for source in sources if name not in OVERWRITES or source.name not in record.mutates]
    reads = [(source, touched(sizes, source).nbytes, is_weight(sizes, source)) for source in read]
    strided = sum(touched(sizes, source).scattered for source in (*written, *read))
    if name == "aten.copy_":
        strided += sum(memory for source, memory, _ in reads if _crosses_tensor(call, written[0], source))
    write = sum(touched(sizes, source).nbytes for source in written) + _fresh(call, sources)
    return Traffic(tuple(reads), write, strided)


def _fresh(call: Call, sources: list[Node]) -> int:
    """Bytes of the outputs that are new memory, not memory of an input."""
    outputs = call.outputs
    if not call.record.is_view:
        return outputs[0].nbytes if len(outputs) == 1 else sum(meta.nbytes for meta in outputs)
    old = {meta.storage for source in sources for meta in call.sizes.outputs(source)}
    return sum(meta.nbytes for meta in outputs if meta.storage not in old)


def _crosses(call: Call, source: Node) -> bool:
    return _crosses_tensor(call, call.node, source)


def _crosses_tensor(call: Call, target: Node, source: Node) -> bool:
    """Whether stepping along the innermost dimension of ``target`` strides through the memory of ``source``."""
    sizes = call.sizes.hints or call.sizes
    here, there = sizes.outputs(target), sizes.outputs(source)
    if not here or not there:
        return False
    mine, other = here[0], there[0]
    if not mine.strides or not other.strides or mine.strides[-1] == 1 == other.strides[-1]:
        return False
    inner = next((dim for dim in range(-len(mine.shape), 0) if mine.strides[dim] == 1 and mine.shape[dim] != 1), None)
    if inner is None or -inner > len(other.shape) or other.shape[inner] == 1:
        return False
    return other.strides[inner] not in (0, 1) and other.nbytes > LINE_BYTES
