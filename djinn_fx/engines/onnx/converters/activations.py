"""Functions of one real number, and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import LIVELY, calm_where_cheap
from djinn_fx.engines.onnx.converters import scores
from djinn_fx.engines.onnx.converters.bounds import clamp
from djinn_fx.engines.onnx.graph import MICROSOFT, GraphBuilder, Number, Refused, Value
from djinn_fx.engines.onnx.kernels import arithmetic, compare, raised, raised_less_one, select, unary, wide
from djinn_fx.engines.onnx.registry import converts, result_dtype


def _function(kind: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Value) -> Value:
        return unary(b, kind, x, result_dtype(node))

    return convert


for _name, _kind in (
    ("log", "Log"),
    ("sqrt", "Sqrt"),
    ("reciprocal", "Reciprocal"),
    ("sigmoid", "Sigmoid"),
    ("tanh", "Tanh"),
    ("sin", "Sin"),
    ("cos", "Cos"),
):
    converts(f"aten.{_name}.default")(_function(_kind))


@converts("aten.exp.default")
def exponential(b: GraphBuilder, node: Node, x: Value) -> Value:
    dtype = result_dtype(node)
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    return b.cast(raised(b, value), dtype)


@converts("aten.erf.default")
def error_function(b: GraphBuilder, node: Node, x: Value) -> Value:
    dtype = result_dtype(node)
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    result = b.op("Erf", [value])
    if b.flavour == "openvino":  # whose function of small numbers is 0
        line = b.op("Mul", [value, b.constant(2 / math.sqrt(math.pi), value.dtype)])
        far = b.op("Less", [b.constant(1e-4, value.dtype), b.op("Abs", [value])], torch.bool)
        result = select(b, far, result, line)
    return b.cast(result, dtype)


@converts("aten.rsqrt.default")
def rsqrt(b: GraphBuilder, node: Node, x: Value) -> Value:
    dtype = result_dtype(node)
    root = b.op("Sqrt", [b.cast(b.cast(x, dtype), wide(b, dtype))])
    return b.cast(b.op("Reciprocal", [root]), dtype)


@converts("aten.relu.default")
def relu(b: GraphBuilder, node: Node, x: Value) -> Value:
    if x.is_float and b.flavour == "onnxruntime":
        return arithmetic(b, "Relu", [x], x.dtype)
    if x.is_float and b.flavour == "tensorrt":
        zero = b.constant(0.0, x.dtype)
        return select(b, compare(b, "Less", x, zero), zero, x)
    # OpenVINO's Relu forgets NaN, and so does its Max of NaN and a number: in this order it does not.
    return arithmetic(b, "Max", [b.constant(0, x.dtype), x], x.dtype)


@converts("aten.gelu.default")
def gelu(b: GraphBuilder, node: Node, x: Value, approximate: str = "none") -> Value:
    if x.dtype is torch.float64:
        raise Refused("no kernel computes Gelu in float64")
    # Torch's of infinity is NaN, and of the tiniest bfloat16 numbers 0.
    calm_where_cheap(b, x, least=LIVELY if x.dtype is torch.bfloat16 else None)
    return unary(b, "Gelu", x, x.dtype, approximate=approximate)


@converts("aten.silu.default")
def silu(b: GraphBuilder, node: Node, x: Value) -> Value:
    value = b.cast(x, wide(b, x.dtype))
    if b.flavour == "onnxruntime" and value.dtype is torch.float32:
        return b.cast(b.op("QuickGelu", [value], domain=MICROSOFT, alpha=1.0), x.dtype)
    return b.cast(b.op("Mul", [value, b.op("Sigmoid", [value])]), x.dtype)


@converts("aten.softplus.default")
def softplus(b: GraphBuilder, node: Node, x: Value, beta: Number = 1, threshold: Number = 20) -> Value:
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    scaled = value if beta == 1 else b.op("Mul", [value, b.constant(beta, inner)])
    # log(1 + exp(x)), written so that it neither overflows nor loses small numbers' digits where it need not.
    result = b.op("Softplus", [scaled])
    if b.flavour == "openvino":  # whose numbers may be below 0 there
        far = b.op("Less", [scaled, b.constant(-10.0, inner)], torch.bool)
        result = select(b, far, b.op("Exp", [scaled]), result)
    if beta != 1:
        result = b.op("Div", [result, b.constant(beta, inner)])
    return b.cast(select(b, compare(b, "Greater", scaled, b.constant(threshold, inner)), value, result), x.dtype)


@converts("aten.hardtanh.default")
def hardtanh(b: GraphBuilder, node: Node, x: Value, min_val: Number = -1, max_val: Number = 1) -> Value:
    return clamp(b, node, x, min_val, max_val)  # type: ignore[return-value]


@converts("aten.leaky_relu.default")
def leaky_relu(b: GraphBuilder, node: Node, x: Value, negative_slope: Number = 0.01) -> Value:
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    scaled = b.op("Mul", [value, b.constant(negative_slope, inner)])
    return b.cast(select(b, compare(b, "Greater", value, b.constant(0.0, inner)), value, scaled), x.dtype)


@converts("aten.elu.default")
def elu(b: GraphBuilder, node: Node, x: Value, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Value:
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    # x where it is positive, else alpha * (exp(input_scale * x) - 1), and all of it scaled.
    negative = value if input_scale == 1 else b.op("Mul", [value, b.constant(input_scale, inner)])
    # Not by ONNX's Elu, which subtracts 1 from the exponential and so loses small numbers' digits.
    curve = raised_less_one(b, negative)
    if alpha != 1:
        curve = b.op("Mul", [curve, b.constant(alpha, inner)])
    below = compare(b, "Less", value, b.constant(0.0, inner))
    result = select(b, below, curve, value)
    return b.cast(result if scale == 1 else b.op("Mul", [result, b.constant(scale, inner)]), x.dtype)


@converts("aten.hardsigmoid.default")
def hardsigmoid(b: GraphBuilder, node: Node, x: Value) -> Value:
    inner = wide(b, x.dtype)
    shifted = b.op("Add", [b.cast(x, inner), b.constant(3.0, inner)])
    bounded = clamp_in(b, shifted, 0.0, 6.0)
    return b.cast(b.op("Div", [bounded, b.constant(6.0, inner)]), x.dtype)


@converts("aten.hardswish.default")
def hardswish(b: GraphBuilder, node: Node, x: Value) -> Value:
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    calm_where_cheap(b, x)
    if inner is torch.float32 and b.flavour != "tensorrt":
        return b.cast(b.op("HardSwish", [value]), x.dtype)
    bounded = clamp_in(b, b.op("Add", [value, b.constant(3.0, inner)]), 0.0, 6.0)
    return b.cast(b.op("Div", [b.op("Mul", [value, bounded]), b.constant(6.0, inner)]), x.dtype)


@converts("aten.mish.default")
def mish(b: GraphBuilder, node: Node, x: Value) -> Value:
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    return b.cast(b.op("Mul", [value, b.op("Tanh", [b.op("Softplus", [value])])]), x.dtype)


def clamp_in(b: GraphBuilder, value: Value, low: float, high: float) -> Value:
    """Floats between two numbers, NaN kept."""
    for kind, number in (("Less", low), ("Greater", high)):
        bound = b.constant(number, value.dtype)
        value = select(b, compare(b, kind, value, bound), bound, value)
    return value


@converts("aten._softmax.default", "aten._safe_softmax.default", "aten.softmax.int")
def softmax(b: GraphBuilder, node: Node, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    dtype = result_dtype(node)
    if not x.shape and b.flavour == "tensorrt":
        value = b.cast(x, torch.float32)
        return b.cast(b.op("Exp", [b.op("Sub", [value, value])]), dtype)
    if not x.shape:
        raise Refused("the softmax of a single number")
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    if b.flavour == "tensorrt" and x.rank == 1:  # whose reader wants two dimensions
        result = b.squeeze(b.op("Softmax", [b.unsqueeze(value, [0])], axis=1), [0])
    else:
        result = b.op("Softmax", [value], axis=dim % x.rank)
    if b.flavour == "openvino" and not scores.need_numbers(b, node, value):
        if "_safe_softmax" in str(node.target):
            scores.need_top(b, value)
        else:
            scores.need_whole_rows(b, result, dim % x.rank)
    if "_safe_softmax" in str(node.target):
        low = compare(b, "Equal", value, b.constant(-math.inf, value.dtype))
        all_low = b.op("ReduceMin", [b.cast(low, torch.int32), b.ints([dim % x.rank])], shape=_kept(x, dim), keepdims=1)
        result = select(b, b.cast(all_low, torch.bool), b.constant(0.0, value.dtype), result)
    return b.cast(result, dtype)


def _kept(x: Value, dim: int) -> tuple[int | None, ...]:
    return tuple(1 if place == dim % x.rank else size for place, size in enumerate(x.shape))


@converts("aten._log_softmax.default", "aten.log_softmax.int")
def log_softmax(b: GraphBuilder, node: Node, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    dtype = result_dtype(node)
    if not x.shape:
        raise Refused("the softmax of a single number")
    value = b.cast(b.cast(x, dtype), wide(b, dtype))
    if b.flavour == "onnxruntime" and value.dtype is torch.float64:  # whose of float64 passes over NaN
        scores.need_top(b, value)
    if b.flavour == "tensorrt":  # whose reader takes the logarithm of the softmax, which loses small ones
        return b.cast(_log_softmax_parts(b, value, dim % x.rank), dtype)
    result = b.op("LogSoftmax", [value], axis=dim % x.rank)
    if b.flavour == "openvino":
        scores.need_whole_rows(b, result, dim % x.rank, logarithms=True)
    return b.cast(result, dtype)


def _log_softmax_parts(b: GraphBuilder, value: Value, dim: int) -> Value:
    kept, over = _kept(value, dim), b.ints([dim])
    away = b.op("Sub", [value, b.op("ReduceMax", [value, over], shape=kept, symbols=(None,) * value.rank, keepdims=1)])
    powers = b.op("Exp", [away])
    total = b.op("ReduceSum", [powers, over], shape=kept, symbols=(None,) * value.rank, keepdims=1)
    return b.op("Sub", [away, b.op("Log", [total])])
