"""The same elements under other sizes, in another order, in parts, or joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.kernels import byte
from djinn_fx.engines.onnx.registry import converts, fake, result_dtype, sizes_of

#: Past the end of any dimension; OpenVINO keeps int64 as int32.
END = 2**31 - 1


@converts(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten._reshape_copy.default",
    "aten.view_copy.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
)
def view(b: GraphBuilder, node: Node, x: Value, *_: Any) -> Value:
    return b.reshape(x, sizes_of(b, node, x))


@converts("aten.permute.default", "aten.permute_copy.default")
def permute(b: GraphBuilder, node: Node, x: Value, dims: Sequence[int]) -> Value:
    return b.transpose(x, [dim % x.rank for dim in dims])


@converts("aten.t.default", "aten.numpy_T.default", "aten.t_copy.default")
def t(b: GraphBuilder, node: Node, x: Value) -> Value:
    return b.transpose(x, list(reversed(range(x.rank))))


@converts("aten.transpose.int", "aten.transpose_copy.int")
def transpose(b: GraphBuilder, node: Node, x: Value, first: int, second: int) -> Value:
    order = list(range(x.rank))
    if order:
        first, second = first % x.rank, second % x.rank
        order[first], order[second] = order[second], order[first]
    return b.transpose(x, order)


@converts("aten.unsqueeze.default", "aten.unsqueeze_copy.default")
def unsqueeze(b: GraphBuilder, node: Node, x: Value, dim: int) -> Value:
    return b.unsqueeze(x, [dim % (x.rank + 1)])


@converts(
    "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default", "aten.squeeze_copy.dim", "aten.squeeze_copy.dims"
)
def squeeze(b: GraphBuilder, node: Node, x: Value, dims: int | Sequence[int] | None = None) -> Value:
    if not x.shape:
        return x
    given = range(x.rank) if dims is None else [dims] if isinstance(dims, int) else dims
    places = sorted({dim % x.rank for dim in given})
    gone = [dim for dim in places if x.shape[dim] == 1]
    if x.rank - len(gone) != fake(node).dim():
        raise Refused("whether a size is 1 differs from call to call")
    return b.squeeze(x, gone)


@converts("aten.expand.default", "aten.expand_copy.default", "aten.broadcast_to.default", "aten.expand_as.default")
def expand(b: GraphBuilder, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    sizes = sizes_of(b, node, x)
    symbols = tuple(size.formula if isinstance(size, Value) else None for size in sizes)
    same = x.rank == len(sizes) and all(
        mine == size if mine is not None else symbol is not None and x.symbol(dim) == symbol
        for dim, (mine, size, symbol) in enumerate(zip(x.shape, sizes, symbols, strict=True))
    )
    return x if same else b.expand(x, sizes)


@converts("aten.repeat.default", "aten.tile.default")
def repeat(b: GraphBuilder, node: Node, x: Value, repeats: Sequence[int | Value]) -> Value:
    times = [*([1] * (x.rank - len(repeats))), *repeats]
    missing = len(times) - x.rank
    value = b.unsqueeze(x, list(range(missing))) if missing else x
    shape = tuple(b.known(size) for size in sizes_of(b, node))
    return b.op("Tile", [value, b.ints(times)], None, shape, symbols=(None,) * len(shape))


@converts("aten.slice.Tensor", "aten.slice_copy.Tensor")
def slice_tensor(
    b: GraphBuilder,
    node: Node,
    x: Value,
    dim: int = 0,
    start: int | Value | None = None,
    end: int | Value | None = None,
    step: int = 1,
) -> Value:
    dim %= x.rank
    first: int | Value = 0 if start is None else start
    last: int | Value = END if end is None or (isinstance(end, int) and end > END) else end
    size = x.shape[dim]
    whole = isinstance(last, int) and (last == END or (size is not None and last >= size))
    if isinstance(first, int) and first == 0 and whole and step == 1:
        return x
    known = fake(node).shape[dim]
    return b.slice(x, dim, first, last, step, known if isinstance(known, int) else None)


@converts("aten.narrow.default")
def narrow(b: GraphBuilder, node: Node, x: Value, dim: int, start: int, length: int) -> Value:
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        raise Refused("a part that starts at a place that differs from call to call")
    return b.slice(x, dim % x.rank, start, start + length, size=length)


def _from_end(b: GraphBuilder, x: Value, dim: int, place: int) -> Value:
    return b.op("Add", [b.tensor(b.size(x, dim), torch.int64), b.constant(place, torch.int64)], shape=())


@converts("aten.select.int", "aten.select_copy.int")
def select(b: GraphBuilder, node: Node, x: Value, dim: int, index: int | Value) -> Value:
    dim %= x.rank
    size = x.shape[dim]
    if b.flavour == "tensorrt" and isinstance(index, int) and index < 0:  # it counts from the front only
        index = index + size if size is not None else _from_end(b, x, dim, index)
    shape = [size for place, size in enumerate(x.shape) if place != dim]
    symbols = tuple(x.symbol(place) for place in range(x.rank) if place != dim)
    return b.op("Gather", [x, b.tensor(index, torch.int64)], None, shape, symbols=symbols, axis=dim)


@converts("aten.cat.default", "aten.concatenate.default")
def cat(b: GraphBuilder, node: Node, values: Sequence[Value], dim: int = 0) -> Value:
    dtype = result_dtype(node)
    rank = fake(node).dim()
    # An empty 1-D tensor joins whatever its rank.
    parts = [b.cast(one, dtype) for one in values if one.rank == rank and not (one.shape == (0,) and rank > 1)]
    parts = [one for one in parts if one.shape[dim % rank] != 0] or parts[:1]
    if not parts:
        raise Refused("nothing is joined")
    return parts[0] if len(parts) == 1 else b.concat(parts, dim % rank)


@converts("aten.stack.default")
def stack(b: GraphBuilder, node: Node, values: Sequence[Value], dim: int = 0) -> Value:
    dtype, rank = result_dtype(node), fake(node).dim()
    return b.concat([b.unsqueeze(b.cast(one, dtype), [dim % rank]) for one in values], dim % rank)


def _parts(b: GraphBuilder, node: Node, x: Value, dim: int) -> tuple[Value, ...]:
    """The parts along a dimension, of the sizes that the node's results have."""
    dim %= x.rank
    results = fake(node)
    sizes = [b.reckon(result.shape[dim], ()) for result in results]
    if len(sizes) == 1:
        return (x,)
    shapes = [tuple(b.known(s) if place == dim else x.shape[place] for place in range(x.rank)) for s in sizes]
    return b.ops("Split", [x, b.ints(sizes)], [(x.dtype, shape) for shape in shapes], axis=dim)


@converts("aten.split.Tensor", "aten.split_with_sizes.default", "aten.split.sizes", "aten.split_copy.Tensor")
def split(b: GraphBuilder, node: Node, x: Value, _sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    return _parts(b, node, x, dim)


@converts("aten.split_with_sizes_copy.default", "aten.chunk.default", "aten.tensor_split.sections")
def chunk(b: GraphBuilder, node: Node, x: Value, _count: Any, dim: int = 0) -> tuple[Value, ...]:
    return _parts(b, node, x, dim)


@converts("aten.unbind.int", "aten.unbind_copy.int")
def unbind(b: GraphBuilder, node: Node, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(select(b, node, x, dim, index) for index in range(len(fake(node))))  # type: ignore[misc]


@converts("aten.constant_pad_nd.default", "aten.pad.default")
def constant_pad(b: GraphBuilder, node: Node, x: Value, pad: Sequence[int | Value], *given: Any, **named: Any) -> Value:
    mode, fill = "constant", 0
    for one in (*given, *named.values()):
        if isinstance(one, str):
            mode = one
        elif one is not None:
            fill = one
    if mode != "constant":
        raise Refused(f"{mode} padding")
    pairs = [(pad[place], pad[place + 1]) for place in range(0, len(pad), 2)]
    pairs += [(0, 0)] * (x.rank - len(pairs))
    pairs.reverse()
    if any(isinstance(one, Value) for pair in pairs for one in pair):
        raise Refused("a padding that differs from call to call")
    value = x
    for dim, (before, after) in enumerate(pairs):  # a negative padding takes away
        if min(before, after) < 0:  # type: ignore[type-var,operator]
            last = END if after >= 0 else after  # type: ignore[operator]
            value = b.slice(value, dim, max(0, -before), last)  # type: ignore[operator]
    amounts = [max(0, one) for one in (*(p[0] for p in pairs), *(p[1] for p in pairs))]  # type: ignore[type-var]
    shape = [b.known(size) for size in sizes_of(b, node)]
    if not any(amounts):
        return Value(value.name, value.dtype, tuple(shape))
    inner = byte(b) if x.dtype is torch.bool else x.dtype
    inputs = [b.cast(value, inner), b.ints(amounts), b.constant(fill, inner)]
    return b.cast(b.op("Pad", inputs, inner, shape, symbols=(None,) * len(shape), mode="constant"), x.dtype)


@converts("aten.as_strided.default")
def as_strided(
    b: GraphBuilder, node: Node, x: Value, size: Sequence[Any], stride: Sequence[Any], offset: Any = None
) -> Value:
    """Only where the elements are those of a contiguous input of known sizes, each found by its place."""
    source: torch.Tensor = fake(node.args[0])  # type: ignore[arg-type]
    numbers = [*size, *stride, *source.shape, *source.stride(), source.storage_offset(), offset or 0]
    if not all(isinstance(one, int) for one in numbers):
        raise Refused("sizes that differ from call to call")
    if offset not in (None, source.storage_offset()):
        raise Refused("another offset than its input's")
    steps = zip(source.shape, source.stride(), stride, strict=True) if source.dim() == len(size) else ()
    if list(source.shape) == list(size) and all(mine == 1 or one == two for mine, one, two in steps):
        return x
    count = math.prod(size)
    if not source.is_contiguous() or count > 1 << 16:
        raise Refused("elements by their place in memory")
    places = torch.arange(source.numel()).as_strided(list(size), list(stride))
    return b.op("Gather", [b.reshape(x, [source.numel()]), b.constant(places, torch.int64)], None, list(size), axis=0)
