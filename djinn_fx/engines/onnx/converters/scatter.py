"""Writing at places that other tensors tell, with what is there already taken into account."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import plain_extremes
from djinn_fx.engines.onnx.converters.parts import (
    along,
    at_most,
    axis,
    binary,
    count,
    either,
    equal,
    flat,
    iota,
    isnan,
    less,
    select,
    wide,
)
from djinn_fx.engines.onnx.graph import GraphBuilder, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import exactly_chosen
from djinn_fx.engines.onnx.registry import Refused, converts, sizes_of

#: torch's names of reductions, and ONNX's.
_REDUCTIONS = {
    "sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min", "mean": "add",
}  # fmt: skip
_NEUTRAL = {"add": 0.0, "mul": 1.0, "max": -math.inf, "min": math.inf}


def _lifted(b: GraphBuilder, *values: Value) -> list[Value]:
    """Values of at least one dimension."""
    return [one if one.rank else b.unsqueeze(one, [0]) for one in values]


def elements(b: GraphBuilder, x: Value, index: Value, source: Value, at: int, reduction: str = "none") -> Value:
    """``ScatterElements``: places counted from the end are taken from the front, as torch allows none."""
    dtype = x.dtype
    if reduction != "none" and b.flavour == "tensorrt":
        raise Refused("TensorRT adds nothing up where it writes")
    if reduction != "none":  # of halves onnxruntime has no kernel, and says so only when it runs
        x, source = b.cast(x, wide(dtype)), b.cast(source, wide(dtype))
    made = b.op("ScatterElements", [x, index, source], symbols=x.symbols, axis=at, reduction=reduction)
    return b.cast(made, dtype)


def _cut(b: GraphBuilder, source: Value, index: Value) -> Value:
    """The source as large as the index: torch lets it be larger."""
    for dim in range(index.rank):
        if source.shape[dim] != index.shape[dim] or source.shape[dim] is None:
            source = b.slice(source, dim, 0, b.size(index, dim), size=index.shape[dim])
    return source


@converts("aten.scatter_add.default")
def _scatter_add(b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _reduced(b, x, dim, index, source, "sum", True)


@converts("aten.scatter.reduce")
def _scatter_reduce(
    b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, source: Value, *, reduce: str
) -> Value:
    return _reduced(b, x, dim, index, source, reduce, True)


@converts("aten.scatter.value_reduce")
def _scatter_value(
    b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, value: Tensorlike, *, reduce: str
) -> Value:
    own, index = _lifted(b, x, index)
    source = b.expand(b.tensor(value, x.dtype), b.sizes(index))
    made = _reduced(b, own, dim, index, source, reduce, True)
    return made if x.rank else b.squeeze(made, [0])


@converts("aten.scatter_reduce.two")
def _scatter_two(
    b: GraphBuilder,
    node: Node,
    x: Value,
    dim: int,
    index: Value,
    source: Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> Value:
    return _reduced(b, x, dim, index, source, reduce, include_self)


def _reduced(
    b: GraphBuilder, x: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool
) -> Value:
    own, index, source = _lifted(b, x, index, source)
    at, kind = axis(dim, own.rank), _REDUCTIONS.get(reduce)
    if kind is None or x.dtype is torch.bool:
        raise Refused(f"with {reduce}, of {x.dtype}")
    if 0 in index.shape or 0 in own.shape:
        raise Refused("at no place, or into nothing")
    source = _cut(b, source, index)
    base = own
    if not include_self:
        base = elements(b, own, index, _like(b, source, _neutral(kind, x.dtype)), at)
    if kind in ("max", "min") and x.is_float:
        made = _extreme(b, base, index, source, at, kind)
    else:
        made = elements(b, base, index, source, at, kind)
    if reduce == "mean":
        made = _averaged(b, own, made, index, at, include_self)
    return made if x.rank else b.squeeze(made, [0])


def _like(b: GraphBuilder, x: Value, number: float) -> Value:
    return b.expand(b.constant(number, x.dtype), b.sizes(x))


def _neutral(kind: str, dtype: torch.dtype) -> float:
    number = _NEUTRAL[kind]
    if dtype.is_floating_point or math.isfinite(number):
        return number if dtype.is_floating_point else int(number)
    limits = torch.iinfo(dtype)
    return limits.min if number < 0 else limits.max


def _extreme(b: GraphBuilder, x: Value, index: Value, source: Value, at: int, kind: str) -> Value:
    """NaN where one is, of what stands there or comes: the runtimes lose it."""
    made = elements(b, x, index, source, at, kind)
    for one in (x, source):
        plain_extremes(b, one, made)
    number = b.cast(isnan(b, source), torch.float32)
    zeros = b.expand(b.constant(0.0, torch.float32), b.sizes(x))
    met = less(b, 0.0, elements(b, zeros, index, number, at, "add"))
    return select(b, either(b, met, isnan(b, x)), math.nan, made)


def _averaged(b: GraphBuilder, x: Value, total: Value, index: Value, at: int, include_self: bool) -> Value:
    """A sum by places, divided by how many were added up there."""
    if not x.is_float:
        raise Refused("the mean of integers")
    ones = b.expand(b.constant(1.0, x.dtype), b.sizes(index))
    start = b.expand(b.constant(1.0 if include_self else 0.0, x.dtype), b.sizes(x))
    many = elements(b, start, index, ones, at, "add")
    return binary(b, "Div", total, select(b, equal(b, many, 0.0), 1.0, many))


@converts("aten.index_add.default")
def _index_add(
    b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, source: Value, *, alpha: float = 1
) -> Value:
    if x.dtype is torch.bool or 0 in index.shape or 0 in x.shape:
        raise Refused("of bool, or at no place")
    own, index, source = _lifted(b, x, index, source)
    if source.rank < own.rank:
        raise Refused("with a source of fewer dimensions")
    at = axis(dim, own.rank)
    if alpha != 1:
        source = binary(b, "Mul", source, alpha)
    places = b.expand(along(b, index, at, own.rank), b.sizes(source))
    made = elements(b, own, places, source, at, "add")
    return made if x.rank else b.squeeze(made, [0])


@converts("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def _index_fill(b: GraphBuilder, node: Node, x: Value, dim: int, index: Value, value: Tensorlike) -> Value:
    """By comparing each place with the index: where few are filled that is cheap, and negative places are right."""
    own, index = _lifted(b, x, index)
    at = axis(dim, own.rank)
    size = b.size(own, at)
    index = _from_front(b, b.cast(index, torch.int64), size)
    if 0 in index.shape or 0 in own.shape:
        return x
    hit = equal(b, b.unsqueeze(iota(b, size), [1]), b.unsqueeze(index, [0]))
    number = b.op("ReduceMax", [b.cast(hit, torch.int32), b.ints([1])], None, (own.shape[at],), keepdims=0)
    mask = along(b, less(b, 0, number), at, own.rank)
    made = exactly_chosen(b, mask, b.tensor(value, x.dtype), own)
    return made if x.rank else b.squeeze(made, [0])


def _from_front(b: GraphBuilder, index: Value, size: int | Value) -> Value:
    return select(b, less(b, index, 0), binary(b, "Add", index, b.tensor(size, torch.int64)), index)


@converts("aten.take.default")
def _take(b: GraphBuilder, node: Node, x: Value, index: Value) -> Value:
    """Places in the whole, counted in order; ONNX counts negative ones from the end as torch does."""
    if 0 in x.shape:
        raise Refused("of nothing")
    if b.flavour == "tensorrt":
        index = _from_front(b, b.cast(index, torch.int64), count(b, x, range(x.rank)))
    return b.op("Gather", [flat(b, x), index], x.dtype, index.shape, symbols=index.symbols, axis=0)


@converts("aten.put.default")
def _put(b: GraphBuilder, node: Node, x: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    if 0 in x.shape or 0 in index.shape or x.dtype is torch.bool:
        raise Refused("of bool, or into nothing, or at no place")
    whole = flat(b, x)
    places = _from_front(b, flat(b, index), count(b, x, range(x.rank)))
    made = elements(b, whole, places, flat(b, source), 0, "add" if accumulate else "none")
    return b.reshape(made, b.sizes(x))


@converts("aten.masked_scatter.default")
def _masked_scatter(b: GraphBuilder, node: Node, x: Value, mask: Value, source: Value) -> Value:
    """Each chosen place takes the next element: which one, the running count of chosen places tells."""
    if 0 in x.shape or 0 in source.shape or not x.rank:
        raise Refused("of nothing, or into a single number")
    sizes = sizes_of(b, node, x, mask)
    mask, x = b.expand(mask, sizes), b.expand(x, sizes)
    chosen = b.cast(flat(b, mask), torch.int64)
    before = b.op("CumSum", [chosen, b.constant(0, torch.int64)], exclusive=1)
    # Places that are not chosen read the first element.
    before = binary(b, "Mul", before, chosen)
    there = b.tensor(count(b, source, range(source.rank)), torch.int64)
    b.require(at_most(b, b.op("ReduceSum", [chosen], None, (), keepdims=0), there))
    last = binary(b, "Sub", there, 1)
    before = b.op("Min", [before, last], shape=before.shape, symbols=before.symbols)
    taken = b.op("Gather", [flat(b, source), before], source.dtype, chosen.shape, axis=0)
    return exactly_chosen(b, mask, b.reshape(taken, sizes), x)


@converts("aten.diagonal_scatter.default")
def _diagonal_scatter(
    b: GraphBuilder, node: Node, x: Value, source: Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    first, second = axis(dim1, x.rank), axis(dim2, x.rank)
    rows, columns = b.size(x, first), b.size(x, second)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Refused("of sizes that are not known before the call")
    long = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    if not long:
        return x
    rest = [place for place in range(x.rank) if place not in (first, second)]
    order = [first, second, *rest]
    moved = b.transpose(x, order)
    places = torch.arange(long)
    pairs = torch.stack([places + max(0, -offset), places + max(0, offset)], 1)
    updates = b.transpose(source, [source.rank - 1, *range(source.rank - 1)])
    made = b.op("ScatterND", [moved, b.constant(pairs, torch.int64), updates], None, moved.shape)
    return b.transpose(made, [order.index(place) for place in range(x.rank)])


__all__ = ["elements"]
