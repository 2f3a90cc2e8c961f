"""The greater and the smaller of two, element by element."""

from __future__ import annotations

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import plain_extremes
from djinn_fx.engines.onnx.converters.elementwise import logic
from djinn_fx.engines.onnx.graph import GraphBuilder, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import arithmetic, broadcast, compare, negate, select, wide
from djinn_fx.engines.onnx.registry import converts, result_dtype


def _bounded(b: GraphBuilder, kind: str, x: Value, bound: Value) -> Value:
    """The greater (``Max``) or the smaller; NaN where one of the two is NaN."""
    if x.dtype is torch.bool:
        return logic(b, "Or" if kind == "Max" else "And", x, bound)
    number = b.array_of(bound)
    if not x.is_float or (b.flavour == "onnxruntime" and (number is None or number.all())):
        inner = wide(b, x.dtype, exact=True)
        made = b.op(kind, [b.cast(bound, inner), b.cast(x, inner)], inner, broadcast(x, bound))
    elif b.flavour == "onnxruntime" and kind == "Max" and not bound.rank:
        return arithmetic(b, "Relu", [x], x.dtype)  # 0 does not take the place of -0
    else:
        made = select(b, compare(b, "Less" if kind == "Max" else "Greater", x, bound), bound, x)
        if number is None:
            made = select(b, negate(b, compare(b, "Equal", bound, bound)), bound, made)
    if number is None and x.is_float:
        for one in (x, bound):  # of two zeros torch takes the first or the second, according to the size
            plain_extremes(b, one, made)
    return b.cast(made, x.dtype)


@converts("aten.maximum.default")
def maximum(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    dtype = result_dtype(node)
    return _bounded(b, "Max", b.cast(x, dtype), b.cast(y, dtype))


@converts("aten.minimum.default")
def minimum(b: GraphBuilder, node: Node, x: Value, y: Value) -> Value:
    dtype = result_dtype(node)
    return _bounded(b, "Min", b.cast(x, dtype), b.cast(y, dtype))


@converts("aten.clamp.default", "aten.clamp.Tensor")
def clamp(b: GraphBuilder, node: Node, x: Value, min: Tensorlike | None = None, max: Tensorlike | None = None) -> Value:
    dtype = result_dtype(node)
    value = b.cast(x, dtype)
    if b.flavour == "onnxruntime" and dtype is torch.float32 and _in_order(min, max):
        # It keeps NaN and the sign of zero, and is done as one with a convolution before it.
        return b.op("Clip", [value, b.tensor(min, dtype), b.tensor(max, dtype)])  # type: ignore[arg-type]
    for kind, bound in (("Max", min), ("Min", max)):
        if bound is not None:
            value = _bounded(b, kind, value, b.tensor(bound, dtype))
    return value


def _in_order(least: Tensorlike | None, most: Tensorlike | None) -> bool:
    """Whether both are numbers, and the first is not above the second; NaN is in no order."""
    numbers = all(isinstance(one, (int, float)) for one in (least, most))
    return numbers and least <= most  # type: ignore[operator]


@converts("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(b: GraphBuilder, node: Node, x: Value, min: Tensorlike) -> Value:
    return clamp(b, node, x, min)  # type: ignore[return-value]


@converts("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(b: GraphBuilder, node: Node, x: Value, max: Tensorlike) -> Value:
    return clamp(b, node, x, None, max)  # type: ignore[return-value]
