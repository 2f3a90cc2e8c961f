"""Functions of one tensor, element by element, besides the common ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import within
from djinn_fx.engines.onnx.converters.parts import (
    at_most,
    binary,
    both,
    either,
    equal,
    isnan,
    less,
    select,
    truncated,
    unary,
    wide,
)
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.kernels import raised_less_one
from djinn_fx.engines.onnx.registry import Refused, converts, result_dtype


def computed(b: GraphBuilder, node: Node, x: Value) -> Value:
    """The argument in the type torch computes in: the result's, float32 for halves.

    Raises:
        Refused: the result is not of floats.
    """
    dtype = result_dtype(node)
    if not dtype.is_floating_point:
        raise Refused(f"of {dtype}")
    return b.cast(x, wide(dtype))


_FUNCTIONS = {
    "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip


def _function(kind: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Value) -> Value:
        return b.cast(unary(b, kind, computed(b, node, x)), result_dtype(node))

    return convert


for _name, _kind in _FUNCTIONS.items():
    converts(f"aten.{_name}.default")(_function(_kind))


@converts("aten.sinh.default", "aten.cosh.default")
def _hyperbolic(b: GraphBuilder, node: Node, x: Value) -> Value:
    """Where torch's kernels leave float32 depends on the kernel; there they answer themselves."""
    value = computed(b, node, x)
    if b.flavour != "tensorrt":  # a GPU's kernels are torch's own kind
        value = within(b, value, -87.0, 87.0)
    kind = "Sinh" if "sinh" in str(node.target) else "Cosh"
    return b.cast(unary(b, kind, value), result_dtype(node))


@converts("aten.exp2.default")
def _exp2(b: GraphBuilder, node: Node, x: Value) -> Value:
    value = computed(b, node, x)
    made = binary(b, "Pow", 2.0, value)
    return b.cast(select(b, isnan(b, value), value, made), result_dtype(node))


@converts("aten.log2.default", "aten.log10.default")
def _log(b: GraphBuilder, node: Node, x: Value) -> Value:
    made = unary(b, "Log", computed(b, node, x))
    base = 2.0 if "log2" in str(node.target) else 10.0
    return b.cast(binary(b, "Mul", made, 1 / math.log(base)), result_dtype(node))


@converts("aten.log1p.default")
def _log1p(b: GraphBuilder, node: Node, x: Value) -> Value:
    """Near zero ``2 * atanh(x / (2 + x))``, which keeps every digit; elsewhere ``log(1 + x)``."""
    value = computed(b, node, x)
    size = unary(b, "Abs", value)
    held = select(b, less(b, size, 0.5), value, 0.0)
    ratio = binary(b, "Div", held, binary(b, "Add", held, 2.0))
    small = binary(b, "Mul", unary(b, "Atanh", ratio), 2.0)
    large = unary(b, "Log", binary(b, "Add", value, 1.0))
    close = select(b, at_most(b, 1e-30, size), small, value)
    return b.cast(select(b, at_most(b, 0.5, size), large, close), result_dtype(node))


@converts("aten.expm1.default")
def _expm1(b: GraphBuilder, node: Node, x: Value) -> Value:
    return b.cast(raised_less_one(b, computed(b, node, x)), result_dtype(node))


@converts("aten.sinc.default")
def _sinc(b: GraphBuilder, node: Node, x: Value) -> Value:
    value = computed(b, node, x)
    angle = binary(b, "Mul", value, math.pi)
    zero = equal(b, value, 0.0)
    made = binary(b, "Div", unary(b, "Sin", angle), select(b, zero, 1.0, angle))
    return b.cast(select(b, zero, 1.0, made), result_dtype(node))


# Rounding and signs


@converts("aten.floor.default", "aten.ceil.default", "aten.round.default")
def _rounded(b: GraphBuilder, node: Node, x: Value) -> Value:
    if not x.is_float:
        return x
    return unary(b, str(node.target).split(".")[1].capitalize(), x)


@converts("aten.trunc.default", "aten.fix.default")
def _trunc(b: GraphBuilder, node: Node, x: Value) -> Value:
    return truncated(b, x) if x.is_float else x


@converts("aten.frac.default")
def _frac(b: GraphBuilder, node: Node, x: Value) -> Value:
    value = computed(b, node, x)
    return b.cast(binary(b, "Sub", value, truncated(b, value)), result_dtype(node))


@converts("aten.sign.default", "aten.sgn.default")
def _sign(b: GraphBuilder, node: Node, x: Value) -> Value:
    """torch's sign of NaN is 0."""
    if x.dtype is torch.bool:
        return x
    made = unary(b, "Sign", x)
    return select(b, isnan(b, x), 0.0, made) if x.is_float else made


def negative(b: GraphBuilder, x: Value) -> Value:
    """Whether the sign bit is set; of NaN it is not known, and taken as not set."""
    if x.dtype in (torch.bool, torch.uint8):
        return b.expand(b.constant(False, torch.bool), b.sizes(x))
    below = less(b, x, 0)
    if not x.is_float:
        return below
    return either(b, below, both(b, equal(b, x, 0.0), less(b, unary(b, "Reciprocal", x), 0.0)))


@converts("aten.signbit.default")
def _signbit(b: GraphBuilder, node: Node, x: Value) -> Value:
    return negative(b, x)


@converts("aten.round.decimals")
def _round_decimals(b: GraphBuilder, node: Node, x: Value, *, decimals: int) -> Value:
    """In the element type, as torch does it, with what that costs in digits."""
    if not x.is_float or x.dtype is not torch.float32:
        raise Refused(f"of {x.dtype}")
    power = 10.0 ** abs(decimals)
    first, second = ("Mul", "Div") if decimals >= 0 else ("Div", "Mul")
    return binary(b, second, unary(b, "Round", binary(b, first, x, power)), power)


@converts("aten.isnan.default", "aten.isinf.default", "aten.isposinf.default", "aten.isneginf.default")
def _special(b: GraphBuilder, node: Node, x: Value) -> Value:
    if not x.is_float:
        return b.expand(b.constant(False, torch.bool), b.sizes(x))
    name = str(node.target).split(".")[1]
    if name == "isnan":
        return isnan(b, x)
    found = [equal(b, x, sign * math.inf) for sign, skip in ((1, "isneginf"), (-1, "isposinf")) if name != skip]
    return either(b, *found) if len(found) == 2 else found[0]


@converts("aten.isfinite.default")
def _finite(b: GraphBuilder, node: Node, x: Value) -> Value:
    if not x.is_float:
        return b.expand(b.constant(True, torch.bool), b.sizes(x))
    return less(b, unary(b, "Abs", x), math.inf)


@converts("aten.nan_to_num.default")
def _nan_to_num(
    b: GraphBuilder,
    node: Node,
    x: Value,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Value:
    if not x.is_float:
        return x
    limits = torch.finfo(x.dtype)
    made = select(b, isnan(b, x), 0.0 if nan is None else nan, x)
    made = select(b, equal(b, x, math.inf), limits.max if posinf is None else posinf, made)
    return select(b, equal(b, x, -math.inf), limits.min if neginf is None else neginf, made)


@converts("aten.angle.default")
def _angle(b: GraphBuilder, node: Node, x: Value) -> Value:
    """Of real numbers: 0 or pi; NaN stays."""
    value = computed(b, node, x)
    made = select(b, less(b, value, 0.0), b.constant(math.pi, value.dtype), 0.0)
    return b.cast(select(b, isnan(b, value), value, made), result_dtype(node))


@converts("aten.logit.default")
def _logit(b: GraphBuilder, node: Node, x: Value, eps: float | None = None) -> Value:
    value = computed(b, node, x)
    if eps is not None:
        value = select(b, less(b, value, eps), eps, value)
        value = select(b, less(b, 1.0 - eps, value), 1.0 - eps, value)
    made = unary(b, "Log", binary(b, "Div", value, binary(b, "Sub", 1.0, value)))
    return b.cast(made, result_dtype(node))
