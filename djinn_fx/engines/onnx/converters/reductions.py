"""Ops that take a dimension away, besides the common ones."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm, exceeds, plain_extremes
from djinn_fx.engines.onnx.converters.binary import norm
from djinn_fx.engines.onnx.converters.parts import (
    axes,
    axis,
    binary,
    count,
    either,
    equal,
    exp,
    extreme,
    first_place,
    flat,
    isnan,
    larger,
    reduce,
    select,
    truth,
    unary,
    wide,
)
from djinn_fx.engines.onnx.converters.reduce_basic import unsigned_zero
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.registry import Refused, converts, fake, result_dtype


def _not_empty(x: Value) -> None:
    if 0 in x.shape:
        raise Refused("of no elements")


# Extremes


def _kind(node: Node) -> str:
    return "ReduceMax" if "max" in str(node.target) else "ReduceMin"


@converts("aten.max.dim", "aten.min.dim")
def _extreme_and_place(b: GraphBuilder, node: Node, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    """The first place where there are several; the first NaN if there is one."""
    if not x.rank:
        return x, b.constant(0, torch.int64)
    _not_empty(x)
    at = axis(dim, x.rank)
    number = b.cast(x, torch.int32) if x.dtype is torch.bool else x
    found = extreme(b, _kind(node), number, [at], True)
    hit = equal(b, number, found)
    if x.is_float:
        hit = either(b, hit, isnan(b, x))
    place = first_place(b, hit, at, keepdim)
    found = b.cast(found, x.dtype)
    return (found if keepdim else b.squeeze(found, [at])), place


@converts("aten.aminmax.default")
def _aminmax(
    b: GraphBuilder, node: Node, x: Value, *, dim: int | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    _not_empty(x)
    over = axes(dim, x.rank)
    return extreme(b, "ReduceMin", x, over, keepdim), extreme(b, "ReduceMax", x, over, keepdim)


# Totals


@converts("aten.prod.default", "aten.prod.dim_int")
def _prod(
    b: GraphBuilder,
    node: Node,
    x: Value,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    value = b.cast(x, wide(result_dtype(node)))
    if not value.rank:
        return b.cast(value, result_dtype(node))
    return b.cast(reduce(b, "ReduceProd", value, axes(dim, x.rank), keepdim), result_dtype(node))


@converts("aten.nansum.default")
def _nansum(
    b: GraphBuilder,
    node: Node,
    x: Value,
    dim: list[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    if x.is_float:
        x = select(b, isnan(b, x), 0.0, x)
    value = b.cast(x, wide(result_dtype(node)))
    total = reduce(b, "ReduceSum", value, axes(dim, x.rank), keepdim)
    return b.cast(unsigned_zero(b, total), result_dtype(node))


@converts("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def _count_nonzero(b: GraphBuilder, node: Node, x: Value, dim: list[int] | int | None = None) -> Value:
    number = b.cast(truth(b, x), torch.int64)
    return reduce(b, "ReduceSum", number, axes(dim, x.rank), False)


# Spread and norms


@converts("aten.var.correction", "aten.std.correction", "aten.var_mean.correction", "aten.std_mean.correction")
def _variance(
    b: GraphBuilder,
    node: Node,
    x: Value,
    dim: list[int] | int | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Value | tuple[Value, Value]:
    """By the mean of the squares of what is left of each element without the mean."""
    _not_empty(x)
    over = axes(dim, x.rank)
    name, results = str(node.target), fake(node)
    dtype = (results[0] if isinstance(results, (tuple, list)) else results).dtype
    value = b.cast(x, wide(dtype))
    calm(b, value)
    mean = reduce(b, "ReduceMean", value, over, True)
    mean = unsigned_zero(b, mean)
    away = binary(b, "Sub", value, mean)
    total = binary(b, "Mul", away, away)
    total = reduce(b, "ReduceSum", total, over, keepdim)
    elements, less_by = count(b, x, over), 1.0 if correction is None else float(correction)
    if isinstance(elements, int):
        divisor: Value | float = max(elements - less_by, 0.0)
    else:
        divisor = larger(b, binary(b, "Sub", b.cast(elements, value.dtype), less_by), b.constant(0.0, value.dtype))
    made = binary(b, "Div", total, divisor)
    if "std" in name:
        if elements != 1:
            exceeds(b, total, 1e-32)  # else squares were too small to be added up
        made = unary(b, "Sqrt", made)
    made = b.cast(made, dtype)
    if "mean" not in name:
        return made
    return made, b.cast(mean if keepdim or not over else b.squeeze(mean, over), dtype)


@converts("aten.linalg_vector_norm.default")
def _vector_norm(
    b: GraphBuilder,
    node: Node,
    x: Value,
    ord: float = 2,
    dim: list[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    own = result_dtype(node)
    if abs(ord) == math.inf:
        _not_empty(x)
    return b.cast(norm(b, b.cast(x, wide(own)), axes(dim, x.rank), float(ord), keepdim), own)


@converts("aten.logsumexp.default")
def _logsumexp(b: GraphBuilder, node: Node, x: Value, dim: list[int], keepdim: bool = False) -> Value:
    """An infinite maximum is the answer itself: 0 is taken for it in the difference."""
    dtype = result_dtype(node)
    _not_empty(x)
    value = b.cast(x, wide(dtype))
    over = axes(dim, x.rank)
    top = extreme(b, "ReduceMax", value, over, True)
    base = select(b, equal(b, unary(b, "Abs", top), math.inf), 0.0, top)
    powers = exp(b, binary(b, "Sub", value, base))
    total = reduce(b, "ReduceSum", powers, over, True)
    made = binary(b, "Add", unary(b, "Log", total), base)
    return b.cast(made if keepdim or not over else b.squeeze(made, over), dtype)


@converts("aten.median.default", "aten.nanmedian.default")
def _median(b: GraphBuilder, node: Node, x: Value) -> Value:
    """The lower of the two in the middle; NaN if there is one."""
    _not_empty(x)
    if "nanmedian" in str(node.target) and x.is_float:
        raise Refused("of what is not NaN")
    value = flat(b, x)
    (size,) = value.shape
    if size is None:
        raise Refused("of a number of elements that is not known before the call")
    held = select(b, isnan(b, value), 0.0, value) if x.is_float else value
    k = (size + 1) // 2
    found, _ = b.ops("TopK", [held, b.ints([k])], [(x.dtype, (k,)), (torch.int64, (k,))], axis=0, largest=0, sorted=1)
    middle = b.squeeze(b.slice(found, 0, k - 1, k, size=1), [0])
    plain_extremes(b, value, middle)
    if not x.is_float:
        return middle
    return select(
        b, equal(b, reduce(b, "ReduceSum", b.cast(isnan(b, value), torch.int32), [0], False), 0), middle, math.nan
    )
