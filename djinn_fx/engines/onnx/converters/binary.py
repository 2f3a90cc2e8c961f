"""Functions of two tensors, element by element, besides the common ones."""

from __future__ import annotations

import functools
import math

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import LIVELY, calm, needs, ordinary
from djinn_fx.engines.onnx.converters.parts import (
    axis,
    binary,
    both,
    either,
    equal,
    exp,
    isnan,
    larger,
    less,
    reduce,
    select,
    unary,
    wide,
)
from djinn_fx.engines.onnx.converters.unary import negative
from djinn_fx.engines.onnx.graph import GraphBuilder, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import joint
from djinn_fx.engines.onnx.registry import Refused, converts, result_dtype


def operands(b: GraphBuilder, node: Node, *given: Tensorlike) -> list[Value]:
    """Operands in the type torch computes in, floats only."""
    dtype = result_dtype(node)
    if not dtype.is_floating_point:
        raise Refused(f"of {dtype}")
    return [b.tensor(one, wide(dtype)) for one in given]


@converts("aten.atan2.default")
def _atan2(b: GraphBuilder, node: Node, y: Value, x: Value) -> Value:
    """The angle of the smaller over the larger coordinate, turned into its eighth of the circle."""
    up, right = operands(b, node, y, x)
    height, width = unary(b, "Abs", up), unary(b, "Abs", right)
    steep = less(b, width, height)
    low, high = select(b, steep, width, height), select(b, steep, height, width)
    ratio = binary(b, "Div", low, high)
    # 0 / 0 and inf / inf
    ratio = select(b, equal(b, low, high), select(b, equal(b, low, 0.0), 0.0, b.constant(1.0, low.dtype)), ratio)
    angle = unary(b, "Atan", ratio)
    angle = select(b, steep, binary(b, "Sub", math.pi / 2, angle), angle)
    angle = select(b, negative(b, right), binary(b, "Sub", math.pi, angle), angle)
    # In this order -0 stays, in ONNX Runtime.
    angle = select(b, b.opposite(negative(b, up)), angle, unary(b, "Neg", angle))
    undefined = either(b, isnan(b, up), isnan(b, right))
    return b.cast(select(b, undefined, math.nan, angle), result_dtype(node))


@converts("aten.copysign.Tensor", "aten.copysign.Scalar")
def _copysign(b: GraphBuilder, node: Node, x: Value, y: Tensorlike) -> Value:
    size, sign = operands(b, node, x, y)
    size = unary(b, "Abs", size)
    return b.cast(select(b, b.opposite(negative(b, sign)), size, unary(b, "Neg", size)), result_dtype(node))


@converts("aten.fmax.default", "aten.fmin.default")
def _fmax(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    """The number where the other is NaN."""
    dtype, op = result_dtype(node), "Max" if "fmax" in str(node.target) else "Min"
    first, second = b.cast(x, dtype), b.cast(y, dtype)
    made = larger(b, second, first, op)  # of two zeros the first
    if not dtype.is_floating_point:
        return made
    return select(b, isnan(b, first), second, select(b, isnan(b, second), first, made))


@converts("aten.logaddexp.default")
def _logaddexp(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    first, second = operands(b, node, x, y)
    return b.cast(log_of_sum(b, first, second), result_dtype(node))


def log_of_sum(b: GraphBuilder, x: Value, y: Value) -> Value:
    """``log(exp(x) + exp(y))`` without overflow; of two equal infinities the infinity."""
    top = larger(b, x, y)
    away = unary(b, "Neg", unary(b, "Abs", binary(b, "Sub", x, y)))
    made = binary(b, "Add", top, unary(b, "Log", binary(b, "Add", exp(b, away), 1.0)))
    endless = both(b, equal(b, x, y), equal(b, unary(b, "Abs", x), math.inf))
    return select(b, endless, x, made)


@converts("aten.hypot.default")
def _hypot(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    """Scaled by the larger one, so that squares do not overflow."""
    first, second = (unary(b, "Abs", one) for one in operands(b, node, x, y))
    ahead = less(b, first, second)
    top, low = select(b, ahead, second, first), select(b, ahead, first, second)
    ratio = binary(b, "Div", low, select(b, equal(b, top, 0.0), 1.0, top))
    made = binary(b, "Mul", top, unary(b, "Sqrt", binary(b, "Add", binary(b, "Mul", ratio, ratio), 1.0)))
    endless = either(b, equal(b, first, math.inf), equal(b, second, math.inf))
    return b.cast(select(b, endless, math.inf, made), result_dtype(node))


@converts("aten.xlogy.Tensor", "aten.xlogy.Scalar_Self", "aten.xlogy.Scalar_Other")
def _xlogy(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
    factor, value = operands(b, node, x, y)
    made = select(b, equal(b, factor, 0.0), 0.0, binary(b, "Mul", factor, unary(b, "Log", value)))
    return b.cast(select(b, isnan(b, value), math.nan, made), result_dtype(node))


@converts("aten.lerp.Scalar", "aten.lerp.Tensor")
def _lerp(b: GraphBuilder, node: Node, start: Value, end: Value, weight: Tensorlike) -> Value:
    """From the nearer end, as torch does it."""
    first, last, share = operands(b, node, start, end, weight)
    step = binary(b, "Sub", last, first)
    near = binary(b, "Add", first, binary(b, "Mul", share, step))
    far = binary(b, "Sub", last, binary(b, "Mul", step, binary(b, "Sub", 1.0, share)))
    return b.cast(select(b, less(b, unary(b, "Abs", share), 0.5), near, far), result_dtype(node))


@converts("aten._cdist_forward.default")
@needs(calm)
def _cdist(b: GraphBuilder, node: Node, x: Value, y: Value, p: float, mode: int | None = None) -> Value:
    """Distances of all pairs, by differences: torch's own way through a product is less exact."""
    first, second = operands(b, node, x, y)
    first, second = b.unsqueeze(first, [first.rank - 1]), b.unsqueeze(second, [second.rank - 2])
    away = binary(b, "Sub", first, second)
    return b.cast(norm(b, away, [away.rank - 1], p, False), result_dtype(node))


def norm(b: GraphBuilder, x: Value, dims: list[int], order: float, keep: bool) -> Value:
    """The vector norm over these dimensions.

    Raises:
        Refused: of an order that is not 0, 1, 2, infinite or positive.
    """
    from djinn_fx.engines.onnx.converters.parts import extreme, truth

    if 0 < order < math.inf:
        reach = max(order, 2.0)  # else powers of them leave the type
        ordinary(b, x, least=1e-30 ** (1 / reach), most=1e30 ** (1 / reach))
    if order == 2.0:
        return unary(
            b, "Sqrt", reduce(b, "ReduceSum", binary(b, "Mul", x, x), dims, keep) if dims else binary(b, "Mul", x, x)
        )
    size = unary(b, "Abs", x)
    if order == 0.0:
        size = b.cast(truth(b, x), x.dtype)
    if abs(order) == math.inf:
        return extreme(b, "ReduceMax" if order > 0 else "ReduceMin", size, dims, keep)
    if order in (0.0, 1.0):
        return reduce(b, "ReduceSum", size, dims, keep)
    if order < 0:
        raise Refused(f"of order {order}")
    total = reduce(b, "ReduceSum", binary(b, "Pow", size, order), dims, keep)
    return binary(b, "Pow", total, 1.0 / order)


@converts("aten._trilinear.default")
@needs(functools.partial(calm, least=LIVELY))
def _trilinear(
    b: GraphBuilder,
    node: Node,
    first: Value,
    second: Value,
    third: Value,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int = 1,
) -> Value:
    made = binary(b, "Mul", b.unsqueeze(first, expand1), b.unsqueeze(third, expand3))
    made = binary(b, "Mul", made, b.unsqueeze(second, expand2))
    return reduce(b, "ReduceSum", made, [axis(dim, made.rank) for dim in sumdim], False) if sumdim else made


@converts("aten.addbmm.default")
@needs(calm)
def _addbmm(
    b: GraphBuilder, node: Node, x: Value, first: Value, second: Value, *, beta: float = 1, alpha: float = 1
) -> Value:
    own, one, two = operands(b, node, x, first, second)
    product = b.op("MatMul", [one, two], None, (*one.shape[:2], two.shape[2]))
    total = reduce(b, "ReduceSum", product, [0], False)
    total = binary(b, "Mul", total, alpha) if alpha != 1 else total
    if beta == 0:
        made = b.op("Expand", [total, b.shape_of(total)], None, joint(total.shape, own.shape))
        return b.cast(made, result_dtype(node))
    own = binary(b, "Mul", own, beta) if beta != 1 else own
    return b.cast(binary(b, "Add", own, total), result_dtype(node))


def _require_order(b: GraphBuilder, bounds: Value, count: int) -> None:
    """Torch searches by halves: among boundaries that are not in order it ends where counting does not."""
    array = b.array_of(bounds)
    if count and (array is None or not bool((array[:-1] <= array[1:]).all()) or bool((array != array).any())):
        lower, upper = (b.slice(bounds, 0, *ends, size=count - 1) for ends in ((0, count - 1), (1, count)))
        pair = (lower, upper) if count > 1 else (bounds, bounds)  # NaN is in no order
        b.require(binary(b, "LessOrEqual", *pair, torch.bool), of_floats=True)


@converts("aten.bucketize.Tensor", "aten.searchsorted.Tensor")
def _bucketize(
    b: GraphBuilder,
    node: Node,
    first: Value,
    second: Value,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """How many boundaries are below (``right``: not above) each element; NaN is above all."""
    search = "searchsorted" in str(node.target)
    bounds, value = (first, second) if search else (second, first)
    if sorter is not None or (search and bounds.rank > 1):
        raise Refused("of rows of boundaries, or boundaries that are not in order")
    number = bounds.shape[0]
    if number is None or number > 4096:
        raise Refused("of more than 4096 boundaries, or a number of them that is not known")
    own = torch.promote_types(bounds.dtype, value.dtype)
    value, bounds = b.cast(value, own), b.cast(bounds, own)
    _require_order(b, bounds, number)
    value = b.unsqueeze(value, [value.rank])
    kind = "LessOrEqual" if right or side == "right" else "Less"
    below = binary(b, kind, bounds, value, torch.bool)
    if own.is_floating_point:
        below = either(b, below, isnan(b, value))
    made = reduce(b, "ReduceSum", b.cast(below, torch.int32), [below.rank - 1], False)
    return b.cast(made, result_dtype(node))
