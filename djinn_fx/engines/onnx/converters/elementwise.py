"""Arithmetic, comparisons, logic and selection, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import is_cheap, rounds_whole
from djinn_fx.engines.onnx.converters import powers
from djinn_fx.engines.onnx.converters.parts import truncated
from djinn_fx.engines.onnx.graph import GraphBuilder, Number, Refused, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import (
    arithmetic,
    broadcast,
    compare,
    exactly_chosen,
    negate,
    wide,
)
from djinn_fx.engines.onnx.registry import converts, promoted, result_dtype


def _scaled(b: GraphBuilder, kind: str, x: Tensorlike, y: Tensorlike, alpha: Tensorlike, dtype: torch.dtype) -> Value:
    """``x + alpha * y``, or the difference, without rounding in between, as torch does it."""
    first, second = b.tensor(x, dtype), b.tensor(y, dtype)
    if not isinstance(alpha, Value) and alpha == 1:
        return arithmetic(b, kind, [first, second], dtype)
    inner = wide(b, dtype)
    product = arithmetic(b, "Mul", [b.cast(second, inner), b.tensor(alpha, inner)], inner)
    if dtype is torch.float32 and b.flavour != "tensorrt" and is_cheap(b, second):
        size = b.op("Abs", [product])  # beyond the type torch's product is exact
        b.require(b.op("Less", [size, b.constant(math.inf, inner)], torch.bool), of_floats=True)
    return b.cast(arithmetic(b, kind, [b.cast(first, inner), product], inner), dtype)


@converts("aten.add.Tensor", "aten.add.Scalar")
def add(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike, alpha: Tensorlike = 1) -> Value:
    dtype = result_dtype(node)
    if dtype is torch.bool:
        if alpha != 1:
            raise Refused("a sum of truth values, scaled")
        return logic(b, "Or", x, y)
    return _scaled(b, "Add", x, y, alpha, dtype)


@converts("aten.sub.Tensor", "aten.sub.Scalar")
def sub(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike, alpha: Tensorlike = 1) -> Value:
    dtype = result_dtype(node)
    return _scaled(b, "Sub", x, y, alpha, dtype)


@converts("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike, alpha: Tensorlike = 1) -> Value:
    dtype = result_dtype(node)
    return _scaled(b, "Sub", y, x, alpha, dtype)


@converts("aten.mul.Tensor", "aten.mul.Scalar")
def mul(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
    dtype = result_dtype(node)
    if dtype is torch.bool:
        return logic(b, "And", x, y)
    return arithmetic(b, "Mul", [b.tensor(x, dtype), b.tensor(y, dtype)], dtype)


@converts("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def div(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
    dtype = result_dtype(node)
    return arithmetic(b, "Div", [b.tensor(x, dtype), b.tensor(y, dtype)], dtype)


@converts("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike, rounding_mode: str | None = None) -> Value:
    dtype = result_dtype(node)
    if rounding_mode is None:
        return div(b, node, x, y)  # type: ignore[return-value]
    if rounding_mode == "floor":
        return floor_divide(b, node, x, y)  # type: ignore[return-value]
    if dtype.is_floating_point:
        inner = wide(b, dtype)
        whole = b.cast(arithmetic(b, "Div", [b.tensor(x, dtype), b.tensor(y, dtype)], dtype), inner)
        return b.cast(truncated(b, whole), dtype)
    inner = wide(b, dtype)
    return b.cast(_truncated_quotient(b, *(b.cast(b.tensor(one, dtype), inner) for one in (x, y))), dtype)


def _floored_quotient(b: GraphBuilder, first: Value, second: Value) -> tuple[Value, Value]:
    """Whole numbers divided and rounded down, and the rest, which has the divisor's sign."""
    shape = broadcast(first, second)
    rest = b.op("Mod", [first, second], shape=shape)
    return b.op("Div", [b.op("Sub", [first, rest], shape=shape), second], shape=shape), rest


def _truncated_quotient(b: GraphBuilder, first: Value, second: Value) -> Value:
    """Whole numbers divided and rounded towards zero."""
    if b.flavour != "tensorrt":
        return b.op("Div", [first, second], shape=broadcast(first, second))
    # TensorRT does not say how it rounds: one more than rounded down where that is away from zero.
    floor, rest = _floored_quotient(b, first, second)
    zero, shape = b.constant(0, first.dtype), floor.shape
    signs = [b.op("Less", [value, zero], torch.bool, value.shape) for value in (first, second)]
    apart = b.op("Xor", signs, torch.bool, shape)
    away = b.op("And", [apart, negate(b, b.op("Equal", [rest, zero], torch.bool))], torch.bool, shape)
    return b.op("Add", [floor, b.cast(away, first.dtype)], shape=shape)


def _rest(b: GraphBuilder, first: Value, second: Value, quotient: Value) -> Value:
    """What a division of whole numbers, rounded towards zero, leaves.

    ONNX has an operator for it, but ONNX Runtime 1.31 reckons it in doubles, which do not hold 2**63 - 1.
    """
    return b.op("Sub", [first, b.op("Mul", [quotient, second], shape=quotient.shape)], shape=quotient.shape)


@converts("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
    dtype = result_dtype(node)
    first, second = b.tensor(x, dtype), b.tensor(y, dtype)
    if dtype.is_floating_point:
        return _floor_divide_floats(b, first, second, dtype)
    inner = wide(b, dtype)
    first, second = b.cast(first, inner), b.cast(second, inner)
    if b.flavour != "onnxruntime":
        return b.cast(_floored_quotient(b, first, second)[0], dtype)
    # Beside the least number the difference that that takes leaves the type.
    shape = broadcast(first, second)
    quotient = _truncated_quotient(b, first, second)
    rests = [b.op("Mod", [first, second], shape=shape), _rest(b, first, second, quotient)]
    differ = negate(b, b.op("Equal", rests, torch.bool, shape))
    return b.cast(b.op("Sub", [quotient, b.cast(differ, inner)], shape=shape), dtype)


def _floor_divide_floats(b: GraphBuilder, first: Value, second: Value, dtype: torch.dtype) -> Value:
    """As c10's div_floor_floating does it: by way of the remainder, so that ``1 // 0.1`` is 9."""
    inner = wide(b, dtype)
    first, second = b.cast(first, inner), b.cast(second, inner)
    shape = broadcast(first, second)
    zero, one, half = (b.constant(number, inner) for number in (0.0, 1.0, 0.5))
    ratio = b.op("Div", [first, second], shape=shape)
    rest = _fmod(b, first, second)
    whole = b.op("Div", [b.op("Sub", [first, rest], shape=shape), second], shape=shape)
    signs = [b.op("Less", [value, zero], torch.bool, value.shape) for value in (rest, second)]
    differ = b.op("Xor", signs, torch.bool, shape)
    differ = b.op("And", [differ, negate(b, b.op("Equal", [rest, zero], torch.bool))], torch.bool, shape)
    whole = b.where(differ, b.op("Sub", [whole, one]), whole)
    floor = b.op("Floor", [whole])
    near = b.op("Less", [half, b.op("Sub", [whole, floor])], torch.bool, shape)
    floor = b.where(near, b.op("Add", [floor, one]), floor)
    # A quotient of zero has the ratio's sign; a division by zero is the ratio.
    none = b.op("Mul", [ratio, zero])
    floor = b.where(negate(b, b.op("Equal", [whole, zero], torch.bool)), floor, none)  # ORT's keeps this one's sign
    return b.cast(b.where(b.op("Equal", [second, zero], torch.bool), ratio, floor, shape), dtype)


def _fmod(b: GraphBuilder, first: Value, second: Value) -> Value:
    if b.flavour != "onnxruntime":
        raise Refused("the runtime's remainder of floats is not exact")
    return b.op("Mod", [first, second], shape=broadcast(first, second), fmod=1)


@converts("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
    dtype = result_dtype(node)
    if dtype.is_floating_point:
        inner = wide(b, dtype)
        first, second = (b.cast(b.tensor(one, dtype), inner) for one in (x, y))
        rest = _fmod(b, first, second)
        zero, shape = b.constant(0.0, inner), broadcast(first, second)
        signs = [b.op("Less", [value, zero], torch.bool, value.shape) for value in (rest, second)]
        differ = b.op("Xor", signs, torch.bool, shape)
        differ = b.op("And", [differ, negate(b, b.op("Equal", [rest, zero], torch.bool))], torch.bool, shape)
        return b.cast(b.where(differ, b.op("Add", [rest, second], shape=shape), rest), dtype)
    return arithmetic(b, "Mod", [b.tensor(x, dtype), b.tensor(y, dtype)], dtype)


@converts("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
    dtype = result_dtype(node)
    if dtype.is_floating_point:
        inner = wide(b, dtype)
        return b.cast(_fmod(b, *(b.cast(b.tensor(one, dtype), inner) for one in (x, y))), dtype)
    inner = wide(b, dtype)
    first, second = (b.cast(b.tensor(one, dtype), inner) for one in (x, y))
    return b.cast(_rest(b, first, second, _truncated_quotient(b, first, second)), dtype)


@converts("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def power(b: GraphBuilder, node: Node, x: Tensorlike, exponent: Tensorlike) -> Value:
    dtype = result_dtype(node)
    if not dtype.is_floating_point:
        if isinstance(exponent, Value) or exponent != int(exponent) or not 0 <= exponent <= 8 or dtype is torch.bool:
            raise Refused("ONNX's power of integers goes by way of floats")
        total = b.tensor(1, dtype) if exponent == 0 else b.tensor(x, dtype)
        for _ in range(int(exponent) - 1):
            total = arithmetic(b, "Mul", [total, b.tensor(x, dtype)], dtype)
        assert isinstance(x, Value)
        return total if exponent else b.expand(total, b.sizes(x))
    inner = wide(b, dtype)
    base = b.cast(b.tensor(x, dtype), inner)
    if b.flavour == "tensorrt":
        raised = b.cast(b.cast(exponent, dtype), inner) if isinstance(exponent, Value) else float(exponent)
        return b.cast(powers.power(b, base, raised), dtype)
    if isinstance(exponent, Value):
        return arithmetic(b, "Pow", [b.tensor(x, dtype), b.tensor(exponent, dtype)], dtype)
    return b.cast(_power(b, base, float(exponent)), dtype)


def _power(b: GraphBuilder, base: Value, exponent: float) -> Value:
    """Powers that torch computes in another way than by its power function are done as torch does."""
    if exponent == 1:
        return base
    if exponent in (0.5, -0.5):
        root = b.op("Sqrt", [base])
        return root if exponent > 0 else b.op("Reciprocal", [root])
    if exponent in (-1, -2):
        return b.op("Reciprocal", [base if exponent == -1 else b.op("Mul", [base, base])])
    return b.op("Pow", [base, b.constant(exponent, base.dtype)])


def _comparison(kind: str, negated: bool = False) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
        dtype = promoted(x, y)
        result = compare(b, kind, b.tensor(x, dtype), b.tensor(y, dtype))
        return negate(b, result) if negated else result

    return convert


for _name, _kind in (
    ("eq", "Equal"),
    ("lt", "Less"),
    ("le", "LessOrEqual"),
    ("gt", "Greater"),
    ("ge", "GreaterOrEqual"),
):
    converts(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_comparison(_kind))
converts("aten.ne.Tensor", "aten.ne.Scalar")(_comparison("Equal", negated=True))


def logic(b: GraphBuilder, kind: str, *given: Tensorlike) -> Value:
    """An operator of truth values, which others are first cast to."""
    values = [b.tensor(one, torch.bool) for one in given]
    return b.op(kind, values, torch.bool, broadcast(*values))


@converts("aten.logical_not.default")
def logical_not(b: GraphBuilder, node: Node, x: Value) -> Value:
    return negate(b, b.cast(x, torch.bool))


def _logical(kind: str) -> Any:
    return lambda b, node, x, y: logic(b, kind, x, y)


def _bitwise(kind: str, bits: str) -> Any:
    def convert(b: GraphBuilder, node: Node, x: Tensorlike, y: Tensorlike) -> Value:
        dtype = result_dtype(node)
        if dtype is torch.bool:
            return logic(b, kind, x, y)
        if b.flavour == "tensorrt":
            raise Refused("TensorRT has no operations on bits")
        operands = [b.tensor(x, dtype), b.tensor(y, dtype)]
        return b.op(bits, operands, dtype, broadcast(*operands))

    return convert


for _name, _kind in (("and", "And"), ("or", "Or"), ("xor", "Xor")):
    converts(f"aten.logical_{_name}.default")(_logical(_kind))
    _overloads = [f"bitwise_{_name}.{one}" for one in ("Tensor", "Scalar", "Scalar_Tensor")]
    _overloads += [f"__{_name}__.{one}" for one in ("Tensor", "Scalar")]
    converts(*(f"aten.{one}" for one in _overloads))(_bitwise(_kind, f"Bitwise{_kind}"))


@converts("aten.bitwise_not.default")
def bitwise_not(b: GraphBuilder, node: Node, x: Value) -> Value:
    if b.flavour == "tensorrt" and x.dtype is not torch.bool:
        return arithmetic(b, "Sub", [arithmetic(b, "Neg", [x], x.dtype), b.constant(1, x.dtype)], x.dtype)
    return negate(b, x) if x.dtype is torch.bool else b.op("BitwiseNot", [x])


@converts("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(b: GraphBuilder, node: Node, condition: Value, x: Tensorlike, y: Tensorlike) -> Value:
    dtype = result_dtype(node)
    return exactly_chosen(b, b.cast(condition, torch.bool), b.tensor(x, dtype), b.tensor(y, dtype))


@converts("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(b: GraphBuilder, node: Node, x: Value, mask: Value, value: Tensorlike) -> Value:
    return exactly_chosen(b, b.cast(mask, torch.bool), b.tensor(value, x.dtype), x)


@converts("aten.neg.default", "aten.abs.default")
def sign(b: GraphBuilder, node: Node, x: Value) -> Value:
    return arithmetic(b, str(node.target).split(".")[1].capitalize(), [x], x.dtype)


@converts("aten.addcmul.default", "aten.addcdiv.default")
def addc(b: GraphBuilder, node: Node, x: Value, y: Value, z: Value, value: Number = 1) -> Value:
    """``x + value * y (* or /) z``, from left to right as torch's kernels do it."""
    dtype, kind = result_dtype(node), "Mul" if "mul" in str(node.target) else "Div"
    inner = wide(b, dtype)
    x, y, z = (b.cast(b.cast(one, dtype), inner) for one in (x, y, z))
    scaled = y if value == 1 else arithmetic(b, "Mul", [b.constant(value, inner), y], inner)
    return b.cast(arithmetic(b, "Add", [x, arithmetic(b, kind, [scaled, z], inner)], inner), dtype)


@converts(
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
    "aten.lift_fresh.default",
    "aten.contiguous.default",
    "prims.device_put.default",
)
def same(b: GraphBuilder, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    return x


@converts("aten._to_copy.default", "aten.to.dtype", "prims.convert_element_type.default")
def to_copy(b: GraphBuilder, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    dtype = result_dtype(node)
    if b.flavour == "openvino" and dtype is torch.bfloat16 and x.dtype is not dtype:
        # Who rounds to a half wants it rounded; OpenVINO leaves a plain conversion out, as it computes in float32.
        source = b.cast(x, torch.float32)
        if is_cheap(b, source):
            rounds_whole(b, source)
        return b.rounded_for_certain(source, dtype)
    return b.cast(x, dtype)


@converts("aten.copy.default")
def copy(b: GraphBuilder, node: Node, x: Value, source: Tensorlike, non_blocking: bool = False) -> Value:
    value = b.tensor(source, x.dtype)
    return value if value.shape == x.shape and None not in x.shape else b.expand(value, b.sizes(x))
