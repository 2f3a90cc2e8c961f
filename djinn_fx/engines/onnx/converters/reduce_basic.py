"""Sums, means, extremes, truth over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm_arguments
from djinn_fx.engines.onnx.converters.parts import anywhere, axes, extreme, first_place, isnan, reduce, reduced
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.kernels import wide
from djinn_fx.engines.onnx.registry import converts, result_dtype


def check_not_empty(x: Value, dims: Sequence[int]) -> None:
    """Refuse the extreme of nothing."""
    if any(x.shape[axis] == 0 for axis in dims):
        raise Refused("the extreme of no elements")


@converts("aten.sum.dim_IntList", "aten.sum.default")
def total(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = result_dtype(node)
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    return b.cast(unsigned_zero(b, reduce(b, "ReduceSum", value, axes(dim, x.rank), keepdim)), dtype)


def unsigned_zero(b: GraphBuilder, total: Value) -> Value:
    """A sum as torch has it, who adds to 0: without any -0. TensorRT's is left as it is: it joins sums with others."""
    if not total.is_float or b.flavour == "tensorrt":
        return total
    zero = b.constant(0.0, total.dtype)
    return b.where(b.op("Equal", [total, zero], torch.bool), zero, total, total.shape)


@converts("aten.mean.dim", "aten.mean.default")
def mean(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = result_dtype(node)
    over = axes(dim, x.rank)
    if any(x.shape[axis] == 0 for axis in over):
        raise Refused("the mean of no elements")
    calm_arguments(b, x)
    inner = wide(b, dtype)
    value = b.cast(b.cast(x, dtype), inner)
    return b.cast(unsigned_zero(b, reduce(b, "ReduceMean", value, over, keepdim)), dtype)


def _extreme(kind: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
        dims = axes(dim, x.rank)
        check_not_empty(x, dims)
        value = x if x.dtype is torch.bool else b.cast(x, wide(b, x.dtype, exact=True))
        return b.cast(extreme(b, kind, value, dims, keepdim), x.dtype)

    return convert


converts("aten.amax.default", "aten.max.default")(_extreme("ReduceMax"))
converts("aten.amin.default", "aten.min.default")(_extreme("ReduceMin"))


def _truth(kind: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
        over = axes(dim, x.rank)
        check_not_empty(x, over)
        value = b.cast(b.cast(x, torch.bool), torch.int32)
        return b.cast(b.cast(reduce(b, kind, value, over, keepdim), torch.bool), result_dtype(node))

    return convert


for _name, _kind in (("any", "ReduceMax"), ("all", "ReduceMin")):
    converts(f"aten.{_name}.default", f"aten.{_name}.dim", f"aten.{_name}.dims")(_truth(_kind))


@converts("aten.cumsum.default")
def cumsum(b: GraphBuilder, node: Node, x: Value, dim: int, **_: Any) -> Value:
    dtype = result_dtype(node)
    if not x.shape:
        return b.cast(x, dtype)
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    return b.cast(unsigned_zero(b, b.op("CumSum", [value, b.constant(dim % x.rank, torch.int64)])), dtype)


def _place(kind: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        value = x
        if dim is None:
            value = b.op("Reshape", [x, b.ints([-1])], None, (None,), symbols=(None,))
        if not value.shape:
            return b.constant(0, torch.int64)
        axis = 0 if dim is None else dim % x.rank
        keep = keepdim and dim is not None
        check_not_empty(value, [axis])
        inner = torch.int32 if x.dtype is torch.bool else wide(b, x.dtype, exact=True)
        value = b.cast(value, inner)
        if b.flavour == "tensorrt":
            return _place_by_value(b, kind, value, axis, keep)
        shape = reduced(value, [axis], keep)
        place = b.op(kind, [value], torch.int64, shape, symbols=(None,) * len(shape), axis=axis, keepdims=int(keep))
        if inner.is_floating_point:
            broken = isnan(b, value)
            place = b.where(anywhere(b, broken, [axis], keep), first_place(b, broken, axis, keep), place)
        if dim is None and keepdim:
            place = b.reshape(place, [1] * x.rank)
        return place

    return convert


def _place_by_value(b: GraphBuilder, kind: str, value: Value, axis: int, keep: bool) -> Value:
    """The first place of the extreme, or of a NaN, for a runtime whose own operator does not say which it gives."""
    found = extreme(b, "ReduceMax" if kind == "ArgMax" else "ReduceMin", value, [axis], True)
    hit = b.op("Equal", [value, found], torch.bool, value.shape)
    if value.is_float:
        hit = b.op("Or", [hit, b.op("IsNaN", [value], torch.bool)])
    return first_place(b, hit, axis, keep)


converts("aten.argmax.default")(_place("ArgMax"))
converts("aten.argmin.default")(_place("ArgMin"))
