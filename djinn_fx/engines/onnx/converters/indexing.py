"""Elements chosen, or replaced, by index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.converters.shapes import END
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import broadcast, byte, exactly_chosen, wide
from djinn_fx.engines.onnx.registry import converts, fake

_INDICES = (torch.int64, torch.int32, torch.int16, torch.int8)


def _index(b: GraphBuilder, index: Value) -> Value:
    if index.dtype not in _INDICES:
        raise Refused("a mask chooses elements: how many depends on data")
    return b.cast(index, torch.int64)


def _from_front(b: GraphBuilder, index: Value, size: int | Value) -> Value:
    """Indices counted from the front; torch takes negative ones as counted from the end."""
    array = b.array_of(index)
    if array is not None and array.size and array.min() >= 0:
        return index
    zero = b.constant(0, torch.int64)
    negative = b.op("Less", [index, zero], torch.bool)
    return b.where(negative, b.op("Add", [index, b.tensor(size, torch.int64)]), index)


@converts("aten.embedding.default")
def embedding(b: GraphBuilder, node: Node, weight: Value, indices: Value, *_: Any, **__: Any) -> Value:
    shape = (*indices.shape, *weight.shape[1:])
    return b.op("Gather", [weight, _index(b, indices)], None, shape, symbols=(None,) * len(shape), axis=0)


@converts("aten.index_select.default")
def index_select(b: GraphBuilder, node: Node, x: Value, dim: int, index: Value) -> Value:
    if not x.shape:
        return x
    chosen = _index(b, index)
    if not index.shape:
        chosen = b.unsqueeze(chosen, [0])
    dim %= x.rank
    shape = [chosen.shape[0] if place == dim else size for place, size in enumerate(x.shape)]
    return b.op("Gather", [x, chosen], None, shape, symbols=(None,) * len(shape), axis=dim)


def _places(indices: Sequence[Value | None]) -> list[int]:
    return [dim for dim, index in enumerate(indices) if index is not None]


@converts("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index_tensor(b: GraphBuilder, node: Node, x: Value, indices: Sequence[Value | None]) -> Value:
    given = [None if one is None else _index(b, one) for one in indices]
    dims = _places(given)
    chosen = [one for one in given if one is not None]
    rank = fake(node).dim()
    if len(dims) == 1:
        places = chosen[0]
        if b.flavour == "tensorrt":  # which counts from the front only
            places = _from_front(b, places, b.size(x, dims[0]))
        return b.op("Gather", [x, places], None, [None] * rank, symbols=(None,) * rank, axis=dims[0])
    together, width = _together(b, x, dims, chosen)
    rest = [dim for dim in range(x.rank) if dim not in dims]
    front = b.transpose(x, [*dims, *rest])
    result = b.op("GatherND", [front, together], None, [None] * rank, symbols=(None,) * rank)
    return b.transpose(result, _back(dims, width, rank))


def _together(b: GraphBuilder, x: Value, dims: Sequence[int], chosen: Sequence[Value]) -> tuple[Value, int]:
    """Index tensors broadcast and laid side by side along a new last dimension, and the rank they have without it."""
    front = [_from_front(b, index, b.size(x, dim)) for dim, index in zip(dims, chosen, strict=True)]
    shape = broadcast(*front)
    if any(one.shape != shape or None in shape for one in front):
        zero = front[0]
        for one in front[1:]:  # their sum has the sizes of all
            zero = b.op(
                "Add", [zero, one], torch.int64, broadcast(zero, one), symbols=(None,) * len(broadcast(zero, one))
            )
        sizes = b.shape_of(Value(zero.name, zero.dtype, shape))
        front = [b.op("Expand", [one, sizes], None, shape, symbols=(None,) * len(shape)) for one in front]
    return b.concat([b.unsqueeze(one, [len(shape)]) for one in front], len(shape)), len(shape)


def _back(dims: Sequence[int], width: int, rank: int) -> list[int]:
    """The order that brings the indices' dimensions from the front to where torch has them.

    Where the indexed dimensions lie side by side, theirs take the place of these; else they stay in front.
    """
    if list(dims) != list(range(dims[0], dims[0] + len(dims))):
        return list(range(rank))
    before = list(range(width, width + dims[0]))
    return [*before, *range(width), *range(width + dims[0], rank)]


@converts("aten.gather.default")
def gather(b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, **_: Any) -> Value:
    chosen = _index(b, index)
    if not x.shape or not index.shape:
        flat = b.reshape(x, [1]) if not x.shape else x
        wide_index = b.reshape(chosen, [1]) if not index.shape else chosen
        result = b.op("GatherElements", [flat, wide_index], None, wide_index.shape, axis=0)
        return b.reshape(result, []) if not index.shape else result
    dim %= x.rank
    for place in range(x.rank):  # ONNX wants the other sizes equal
        mine, wanted = x.shape[place], index.shape[place]
        if place == dim or (mine is not None and mine == wanted):
            continue
        if mine is None and wanted is None and x.symbol(place) and x.symbol(place) == index.symbol(place):
            continue
        x = _first(b, x, place, b.size(index, place))
    return b.op("GatherElements", [x, chosen], None, index.shape, symbols=index.symbols, axis=dim)


def _first(b: GraphBuilder, x: Value, dim: int, count: int | Value) -> Value:
    """The first so many along a dimension; OpenVINO 2026.4 loses a Slice before GatherElements."""
    if b.flavour != "openvino":
        return b.slice(x, dim, 0, count, size=b.known(count))
    zero, one = b.constant(0, torch.int64), b.constant(1, torch.int64)
    places = b.op("Range", [zero, b.tensor(count, torch.int64), one], torch.int64, (b.known(count),), symbols=(None,))
    shape = [b.known(count) if place == dim else size for place, size in enumerate(x.shape)]
    return b.op("Gather", [x, places], None, shape, symbols=(None,) * len(shape), axis=dim)


# Replacing


@converts("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(
    b: GraphBuilder, node: Node, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    if len(_places(indices)) == 1 and not accumulate:
        (dim,) = _places(indices)
        mask = indices[dim]
        if mask is not None and mask.dtype is torch.bool and values.rank == 0:
            return _masked(b, x, dim, mask, values)
    given = [None if one is None else _index(b, one) for one in indices]
    dims = _places(given)
    chosen = [one for one in given if one is not None]
    values = b.cast(values, x.dtype)
    if len(dims) == 1 and chosen[0].rank == 1 and not accumulate:
        return _along(b, x, dims[0], chosen[0], values)
    together, width = _together(b, x, dims, chosen)
    rest = [dim for dim in range(x.rank) if dim not in dims]
    order = [*dims, *rest]
    shape = [*(b.sizes(together)[:-1]), *(b.size(x, dim) for dim in rest)]
    # The values have the indices' dimensions where torch has them: to the front with these.
    back = _back(dims, width, width + len(rest))
    missing = len(back) - values.rank
    values = b.unsqueeze(values, list(range(missing))) if missing > 0 else values
    values = b.transpose(values, [back.index(place) for place in range(len(back))])
    result = _scatter_nd(b, b.transpose(x, order), together, b.expand(values, shape), accumulate)
    return b.transpose(result, [order.index(dim) for dim in range(x.rank)])


def _masked(b: GraphBuilder, x: Value, dim: int, mask: Value, value: Value) -> Value:
    """One number wherever a mask holds; the mask stands for dimensions from ``dim`` on."""
    tail = x.rank - dim - mask.rank
    condition = b.unsqueeze(mask, list(range(mask.rank, mask.rank + tail))) if tail else mask
    return exactly_chosen(b, condition, b.cast(value, x.dtype), x)


def _scatter_nd(b: GraphBuilder, x: Value, together: Value, values: Value, accumulate: bool) -> Value:
    if not accumulate:
        return b.op("ScatterND", [x, together, values])
    if x.dtype is torch.bool or b.flavour == "tensorrt":
        raise Refused("truth values added up, or in TensorRT, which adds nothing up where it writes")
    inner = wide(b, x.dtype)
    return b.cast(b.op("ScatterND", [b.cast(x, inner), together, b.cast(values, inner)], reduction="add"), x.dtype)


def _along(b: GraphBuilder, x: Value, dim: int, index: Value, values: Value) -> Value:
    """Slices along one dimension replaced: what a cache of keys does with the newest ones."""
    sizes = b.sizes(x)
    sizes[dim] = b.size(index, 0)
    shape = tuple(b.known(size) for size in sizes)
    spread = b.reshape(index, [sizes[dim] if place == dim else 1 for place in range(x.rank)])
    positions = b.expand(_from_front(b, spread, b.size(x, dim)), sizes)
    missing = x.rank - values.rank
    updates = b.unsqueeze(values, list(range(missing))) if missing else values
    if updates.shape != shape or None in shape:
        updates = b.expand(updates, sizes)
    return scatter_elements(b, x, positions, updates, dim)


def scatter_elements(b: GraphBuilder, x: Value, positions: Value, updates: Value, dim: int) -> Value:
    """ScatterElements; what has few kernels goes by way of another type, exactly."""
    inner = byte(b) if x.dtype is torch.bool else wide(b, x.dtype, exact=True)
    value = b.op("ScatterElements", [b.cast(x, inner), positions, b.cast(updates, inner)], axis=dim)
    return b.cast(value, x.dtype)


@converts("aten.index_copy.default")
def index_copy(b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, source: Value) -> Value:
    if not x.shape:
        return b.reshape(source, [])
    chosen = _index(b, index)
    if not index.shape:
        chosen = b.unsqueeze(chosen, [0])
    return _along(b, x, dim % x.rank, chosen, b.cast(source, x.dtype))


@converts("aten.scatter.src", "aten.scatter.value")
def scatter(b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, source: Tensorlike) -> Value:
    positions = _index(b, index)
    flat = not x.shape
    if flat:
        x, positions = b.reshape(x, [1]), b.reshape(positions, [1])
    elif not index.shape:
        positions = b.reshape(positions, [1])
    dim %= x.rank
    if not isinstance(source, Value) or not source.shape:
        updates = b.expand(b.tensor(source, x.dtype), b.sizes(positions))
    else:
        updates = b.cast(source, x.dtype)
        for place in range(x.rank):
            mine, wanted = updates.shape[place], positions.shape[place]
            if mine is None or mine != wanted:
                updates = b.slice(updates, place, 0, b.size(positions, place), size=wanted)
    result = scatter_elements(b, x, positions, updates, dim)
    return b.reshape(result, []) if flat else result


def _bounds(b: GraphBuilder, x: Value, dim: int, start: Any, end: Any) -> tuple[int | Value, int | Value]:
    """Where a slice starts and ends, as numbers from the front; a size that is not known must be counted from there."""
    size = x.shape[dim]
    first = 0 if start is None else start
    last = END if end is None else end
    if isinstance(size, int) and isinstance(first, int) and isinstance(last, int):
        first, last, _ = slice(first, last).indices(size)
        return first, max(first, last)
    if any(isinstance(one, int) and one < 0 for one in (first, last)):
        raise Refused("a place counted from an end that differs from call to call")
    return first, min(last, END) if isinstance(last, int) else last


@converts("aten.slice_scatter.default")
def slice_scatter(
    b: GraphBuilder,
    node: Node,
    x: Value,
    source: Value,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> Value:
    dim %= x.rank
    first, last = _bounds(b, x, dim, start, end)
    source = b.cast(source, x.dtype)
    if step != 1:
        if not isinstance(first, int) or not isinstance(last, int) or last == END:
            raise Refused("a slice with steps in a size that differs from call to call")
        places = b.constant(list(range(first, last, step)), torch.int64)
        return _along(b, x, dim, places, source)
    parts = [source]
    if not (isinstance(first, int) and first == 0):
        parts.insert(0, b.slice(x, dim, 0, first, size=b.known(first)))
    if not (isinstance(last, int) and (last == END or last == x.shape[dim])):
        parts.append(b.slice(x, dim, last, END))
    return source if len(parts) == 1 else b.concat(parts, dim)


@converts("aten.select_scatter.default")
def select_scatter(b: GraphBuilder, node: Node, x: Value, source: Value, dim: int, index: int | Value) -> Value:
    dim %= x.rank
    place = b.reshape(b.tensor(index, torch.int64), [1])
    return _along(b, x, dim, place, b.unsqueeze(b.cast(source, x.dtype), [dim]))
