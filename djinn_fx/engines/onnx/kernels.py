"""Elementwise work in the types that the runtimes compute as torch does.

What is known of them (onnxruntime 1.31, OpenVINO 2026.4, CPU; each was tried):

- float16 and bfloat16 have few kernels: the work is done in float32 and rounded, as torch does it.
- Narrow integers have few kernels in onnxruntime and saturate in OpenVINO, where torch wraps around: onnxruntime does
  the work in int32 and casts, which wraps; OpenVINO is not asked.
- OpenVINO keeps int64 as int32, takes NaN for greater than any number, and forgets it in Relu, Clip, Max and Min.
- TensorRT has halves natively: what rounds once at most is done in them, the rest in float32, as torch does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value

#: What both runtimes' elementwise kernels take.
PLAIN = (torch.float32, torch.float64, torch.int32, torch.int64)
_NARROW = (torch.int8, torch.uint8, torch.int16, torch.uint16)
_HALF = (torch.float16, torch.bfloat16)
#: Of halves, the result in float32 rounded is the result in halves.
_ROUNDED_ONCE = frozenset({"Add", "Sub", "Mul", "Neg", "Abs"})


def wide(b: GraphBuilder, dtype: torch.dtype, exact: bool = False) -> torch.dtype:
    """The type to compute in for operands of a type.

    Args:
        b: the builder.
        dtype: of the operands; not bool.
        exact: the result is one of the operands, or a truth value: nothing can overflow.

    Raises:
        Refused: none is right.
    """
    if dtype in PLAIN:
        return dtype
    if dtype in _HALF:
        return dtype if exact and b.flavour == "tensorrt" else torch.float32
    if dtype in _NARROW:
        if b.flavour == "openvino" and not exact:
            raise Refused(f"OpenVINO's {str(dtype).removeprefix('torch.')} does not wrap around as torch's does")
        return torch.int32
    if dtype is torch.uint32 and exact:
        return torch.int64
    raise Refused(f"no kernel computes in {str(dtype).removeprefix('torch.')}")


def byte(b: GraphBuilder) -> torch.dtype:
    """What stands for truth values where they have no kernel."""
    return torch.int32 if b.flavour == "tensorrt" else torch.uint8


def joint(*shapes: Sequence[int | None]) -> tuple[int | None, ...]:
    """The sizes that shapes broadcast to: a size is known if a number other than 1 is among them."""
    rank = max(len(shape) for shape in shapes)
    sizes: list[int | None] = []
    for place in range(-rank, 0):
        at = [shape[place] for shape in shapes if len(shape) >= -place and shape[place] != 1]
        known = [size for size in at if size is not None]
        sizes.append(known[0] if known else None if at else 1)
    return tuple(sizes)


def broadcast(*values: Value) -> tuple[int | None, ...]:
    """The shape of values broadcast together."""
    return joint(*(value.shape for value in values))


def arithmetic(b: GraphBuilder, kind: str, values: Sequence[Value], dtype: torch.dtype, **attributes: Any) -> Value:
    """An operator whose operands and result are of one type, done in :func:`wide`'s and given back in ``dtype``."""
    inner = dtype if kind in _ROUNDED_ONCE and dtype in _HALF and b.flavour == "tensorrt" else wide(b, dtype)
    operands = [b.cast(value, inner) for value in values]
    return b.cast(b.op(kind, operands, inner, broadcast(*values), **attributes), dtype)


def compare(b: GraphBuilder, kind: str, first: Value, second: Value) -> Value:
    """``Less``, ``LessOrEqual``, ``Greater``, ``GreaterOrEqual`` or ``Equal``, of operands of one type.

    NaN is in no order.
    """
    if first.dtype is torch.bool:
        inner = torch.bool if kind == "Equal" else torch.int32
    else:
        inner = wide(b, first.dtype, exact=True)
    operands = [b.cast(first, inner), b.cast(second, inner)]
    if kind in ("Greater", "GreaterOrEqual"):
        kind = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}[kind]
        operands.reverse()
    return b.op(kind, operands, torch.bool, broadcast(first, second))


def negate(b: GraphBuilder, value: Value) -> Value:
    """The other truth value."""
    return b.opposite(value)


def select(b: GraphBuilder, condition: Value, yes: Value, no: Value) -> Value:
    """Elements of one or the other, which have one type."""
    shape = broadcast(condition, yes, no)
    if yes.dtype is torch.bool:
        taken = b.op("And", [condition, yes], shape=broadcast(condition, yes))
        left = b.op("And", [negate(b, condition), no], torch.bool, broadcast(condition, no))
        return b.op("Or", [taken, left], shape=shape)
    inner = wide(b, yes.dtype, exact=True)
    return b.cast(chosen(b, condition, b.cast(yes, inner), b.cast(no, inner), shape), yes.dtype)


def chosen(b: GraphBuilder, condition: Value, yes: Value, no: Value, shape: Sequence[int | None]) -> Value:
    """``Where``. ONNX Runtime's makes -0 to 0 in its second operand: a constant goes there, if there is one."""
    if b.flavour == "onnxruntime" and yes.is_float and b.array_of(yes) is None and b.array_of(no) is not None:
        condition = b.opposite(condition)
        yes, no = no, yes
    return b.op("Where", [condition, yes, no], yes.dtype, shape)


def unary(b: GraphBuilder, kind: str, value: Value, dtype: torch.dtype, **attributes: Any) -> Value:
    """A function of real numbers, of a value cast to ``dtype`` first, which is a floating-point type."""
    inner = wide(b, dtype)
    rounded = b.cast(b.cast(value, dtype), inner)
    return b.cast(b.op(kind, [rounded], **attributes), dtype)


def exactly_chosen(b: GraphBuilder, condition: Value, yes: Value, no: Value) -> Value:
    """As :func:`select`, the sign of zero kept in ONNX Runtime where both operands vary.

    Each operand is chosen beside -0, which a sum leaves as it is; its Where makes 0 of what it does not choose.
    """
    varies = b.array_of(yes) is None and b.array_of(no) is None
    if b.flavour != "onnxruntime" or not yes.is_float or not varies:
        return select(b, condition, yes, no)
    shape, inner = broadcast(condition, yes, no), wide(b, yes.dtype, exact=True)
    other = b.opposite(condition)
    parts = []
    for left_out, value in ((other, yes), (condition, no)):
        turned = b.op("Neg", [b.cast(value, inner)])
        parts.append(b.op("Neg", [b.op("Where", [left_out, b.constant(0.0, inner), turned], inner, shape)]))
    return b.cast(b.op("Add", parts, inner, shape), yes.dtype)


def raised(b: GraphBuilder, value: Value) -> Value:
    """The exponential of float32 or float64.

    OpenVINO's of NaN is infinity, and it is infinite from 88.4 on and 0 below -87.3: of half the number it is neither.
    """
    if b.flavour != "openvino":
        return b.op("Exp", [value])
    root = b.op("Exp", [b.op("Mul", [value, b.constant(0.5, value.dtype)])])
    return select(b, b.op("IsNaN", [value], torch.bool), value, b.op("Mul", [root, root]))


def raised_less_one(b: GraphBuilder, value: Value) -> Value:
    """``exp(x) - 1``; near zero ``tanh(x / 2) * (exp(x) + 1)``, which keeps every digit and the sign of zero."""
    power, one, half = raised(b, value), b.constant(1.0, value.dtype), b.constant(0.5, value.dtype)
    size = b.op("Abs", [value])
    small = b.op("Mul", [b.op("Tanh", [b.op("Mul", [value, half])]), b.op("Add", [power, one])])
    # Very near it is x: tanh and OpenVINO's products with constants lose the sign of zero, and denormals.
    away = b.op("LessOrEqual", [b.constant(1e-6, value.dtype), size], torch.bool)
    far = b.op("LessOrEqual", [half, size], torch.bool)
    return b.where(far, b.op("Sub", [power, one]), b.where(away, small, value))
