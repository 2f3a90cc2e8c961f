"""Sums, means, extremes, truth over dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm_arguments, plain_extremes
from djinn_fx.engines.onnx.converters.parts import first_place
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.kernels import negate, select, wide
from djinn_fx.engines.onnx.registry import converts, result_dtype


def axes_of(x: Value, dims: int | Sequence[int] | None) -> list[int]:
    """The dimensions that are reduced, counted from the front; none given means all."""
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return list(range(x.rank))
    given = [dims] if isinstance(dims, int) else dims
    return sorted({dim % max(x.rank, 1) for dim in given}) if x.rank else []


def reduced(x: Value, axes: Sequence[int], keepdim: bool) -> tuple[int | None, ...]:
    """The shape after a reduction."""
    if keepdim:
        return tuple(1 if dim in axes else size for dim, size in enumerate(x.shape))
    return tuple(size for dim, size in enumerate(x.shape) if dim not in axes)


def reduce(b: GraphBuilder, kind: str, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """One of ONNX's reductions, of a type it has; of a single number it is that number."""
    if not axes:
        return x
    shape = reduced(x, axes, keepdim)
    return b.op(kind, [x, b.ints(axes)], None, shape, symbols=(None,) * len(shape), keepdims=int(keepdim))


def check_not_empty(x: Value, axes: Sequence[int]) -> None:
    """Refuse the extreme of nothing."""
    if any(x.shape[axis] == 0 for axis in axes):
        raise Refused("the extreme of no elements")


@converts("aten.sum.dim_IntList", "aten.sum.default")
def total(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = result_dtype(node)
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    return b.cast(unsigned_zero(b, reduce(b, "ReduceSum", value, axes_of(x, dim), keepdim)), dtype)


def unsigned_zero(b: GraphBuilder, total: Value) -> Value:
    """A sum as torch has it, who adds to 0: without any -0. TensorRT's is left as it is: it joins sums with others."""
    if not total.is_float or b.flavour == "tensorrt":
        return total
    zero = b.constant(0.0, total.dtype)
    return b.where(b.op("Equal", [total, zero], torch.bool), zero, total, total.shape)


@converts("aten.mean.dim", "aten.mean.default")
def mean(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = result_dtype(node)
    axes = axes_of(x, dim)
    if any(x.shape[axis] == 0 for axis in axes):
        raise Refused("the mean of no elements")
    calm_arguments(b, x)
    inner = wide(b, dtype)
    value = b.cast(b.cast(x, dtype), inner)
    return b.cast(unsigned_zero(b, reduce(b, "ReduceMean", value, axes, keepdim)), dtype)


def extreme(b: GraphBuilder, kind: str, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """``ReduceMax`` or ``ReduceMin`` with torch's meaning: NaN where there is one."""
    check_not_empty(x, axes)
    inner = torch.int32 if x.dtype is torch.bool else wide(b, x.dtype, exact=True)
    value = b.cast(x, inner)
    result = reduce(b, kind, value, axes, keepdim)
    if inner.is_floating_point and axes:
        plain_extremes(b, value, result)
        if b.flavour == "openvino":  # which begins with the largest finite number, not with infinity
            least = b.constant(-math.inf if kind == "ReduceMax" else math.inf, inner)
            beyond = negate(b, b.op("Equal", [value, least], torch.bool))
            found = b.cast(reduce(b, "ReduceMax", b.cast(beyond, torch.int32), axes, keepdim), torch.bool)
            result = select(b, found, result, least)
        result = select(b, has_nan(b, value, axes, keepdim), b.constant(math.nan, inner), result)
    return b.cast(result, x.dtype)


def has_nan(b: GraphBuilder, value: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """Whether there is a NaN along dimensions; the runtimes' own extremes pass over them."""
    is_nan = negate(b, b.op("Equal", [value, value], torch.bool))
    return b.cast(reduce(b, "ReduceMax", b.cast(is_nan, torch.int32), axes, keepdim), torch.bool)


@converts("aten.amax.default")
def amax(b: GraphBuilder, node: Node, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return extreme(b, "ReduceMax", x, axes_of(x, dim), keepdim)


@converts("aten.amin.default")
def amin(b: GraphBuilder, node: Node, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return extreme(b, "ReduceMin", x, axes_of(x, dim), keepdim)


@converts("aten.max.default")
def max_of_all(b: GraphBuilder, node: Node, x: Value) -> Value:
    return extreme(b, "ReduceMax", x, axes_of(x, None), False)


@converts("aten.min.default")
def min_of_all(b: GraphBuilder, node: Node, x: Value) -> Value:
    return extreme(b, "ReduceMin", x, axes_of(x, None), False)


def _truth(kind: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
        axes = axes_of(x, dim)
        check_not_empty(x, axes)
        value = b.cast(b.cast(x, torch.bool), torch.int32)
        return b.cast(b.cast(reduce(b, kind, value, axes, keepdim), torch.bool), result_dtype(node))

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
            is_nan = b.cast(negate(b, b.op("Equal", [value, value], torch.bool)), torch.int32)
            first = b.op(
                "ArgMax", [is_nan], torch.int64, shape, symbols=(None,) * len(shape), axis=axis, keepdims=int(keep)
            )
            place = b.where(has_nan(b, value, [axis], keep), first, place)
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
