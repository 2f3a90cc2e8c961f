"""Small pieces that several themes are made of; nothing here is a converter.

What the runtimes do not do as torch does is worked round here (seen with onnxruntime 1.31 and OpenVINO 2026.4 on CPU):
OpenVINO's ``Greater`` and ``GreaterOrEqual`` hold where an operand is NaN, its ``Max``, ``Min``, ``Clip``, ``Relu`` and
``Exp`` lose NaN, and ``ReduceMax`` and ``ReduceMin`` of both runtimes lose it on long rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from djinn_fx.engines.onnx.conditions.floats import plain_extremes
from djinn_fx.engines.onnx.graph import GraphBuilder, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import chosen, joint, raised

HALVES = (torch.float16, torch.bfloat16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type torch computes in where the result is of this one: float32 for halves."""
    return torch.float32 if dtype in HALVES else dtype


def axis(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim % rank if rank else 0


def axes(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Dimensions counted from the front, in order; all where none is named."""
    if dims is None or (not isinstance(dims, int) and not dims):
        return list(range(rank))
    return sorted({axis(dim, rank) for dim in ([dims] if isinstance(dims, int) else dims)}) if rank else []


def binary(b: GraphBuilder, kind: str, x: Tensorlike, y: Tensorlike, dtype: torch.dtype | None = None) -> Value:
    """An operator of two operands of one type; a number takes the other's type.

    Args:
        b: the builder.
        kind: the ONNX operator.
        x: an operand; at least one of the two is a value.
        y: the other.
        dtype: of the result, if it is not the operands'.
    """
    own = x.dtype if isinstance(x, Value) else y.dtype if isinstance(y, Value) else torch.float32
    first, second = b.tensor(x, own), b.tensor(y, own)
    return b.op(kind, [first, second], dtype or own, joint(first.shape, second.shape))


def unary(b: GraphBuilder, kind: str, x: Value, dtype: torch.dtype | None = None) -> Value:
    """An operator of one operand, element by element."""
    return b.op(kind, [x], dtype)


def less(b: GraphBuilder, x: Tensorlike, y: Tensorlike) -> Value:
    """``x < y``: false where one is NaN, in both runtimes. For ``x > y`` exchange the operands."""
    return binary(b, "Less", x, y, torch.bool)


def at_most(b: GraphBuilder, x: Tensorlike, y: Tensorlike) -> Value:
    """``x <= y``, as :func:`less`."""
    return binary(b, "LessOrEqual", x, y, torch.bool)


def equal(b: GraphBuilder, x: Tensorlike, y: Tensorlike) -> Value:
    """``x == y``."""
    return binary(b, "Equal", x, y, torch.bool)


def both(b: GraphBuilder, x: Value, y: Value) -> Value:
    """Logical and."""
    return binary(b, "And", x, y)


def either(b: GraphBuilder, x: Value, y: Value) -> Value:
    """Logical or."""
    return binary(b, "Or", x, y)


def isnan(b: GraphBuilder, x: Value) -> Value:
    """Whether an element of floats is NaN."""
    return b.op("IsNaN", [x], torch.bool)


def select(b: GraphBuilder, condition: Value, yes: Tensorlike, no: Tensorlike) -> Value:
    """Elements of one or the other, all broadcast together; a number takes the other's type."""
    own = yes.dtype if isinstance(yes, Value) else no.dtype if isinstance(no, Value) else torch.float32
    first, second = b.tensor(yes, own), b.tensor(no, own)
    if own is torch.bool:  # of which onnxruntime has no Where
        return either(b, both(b, condition, first), both(b, b.opposite(condition), second))
    return chosen(b, condition, first, second, joint(condition.shape, first.shape, second.shape))


def truncated(b: GraphBuilder, x: Value) -> Value:
    """Rounded towards zero; the sign of zero stays."""
    return select(b, less(b, 0.0, x), unary(b, "Floor", x), unary(b, "Ceil", x))


def exp(b: GraphBuilder, x: Value) -> Value:
    """The exponential; NaN stays NaN, and the ends of the type are where they are."""
    return raised(b, x)


def truth(b: GraphBuilder, x: Value) -> Value:
    """Whether an element differs from zero; NaN does. Not by a cast, which takes NaN for 0 in OpenVINO."""
    return x if x.dtype is torch.bool else b.opposite(equal(b, x, 0))


def larger(b: GraphBuilder, x: Value, y: Value, op: str = "Max") -> Value:
    """The larger (``op="Min"``: the smaller) of two values of one type; NaN if one is NaN."""
    if x.dtype is torch.bool:
        return either(b, x, y) if op == "Max" else both(b, x, y)
    if not x.is_float or b.flavour == "onnxruntime":
        return binary(b, op, x, y)
    ahead = less(b, y, x) if op == "Max" else less(b, x, y)
    # Where the second is NaN nothing is ahead of it, so it is chosen.
    return select(b, either(b, ahead, isnan(b, x)), x, y)


# Places


def iota(b: GraphBuilder, size: int | Value) -> Value:
    """0, 1, 2, …: int64, 1-D."""
    if isinstance(size, int):
        return b.constant(torch.arange(size), torch.int64)
    zero, one = b.constant(0, torch.int64), b.constant(1, torch.int64)
    return b.op("Range", [zero, size, one], torch.int64, (None,), symbols=(size.formula,))


def along(b: GraphBuilder, vector: Value, dim: int, rank: int) -> Value:
    """A 1-D value laid along one of ``rank`` dimensions; the others are 1."""
    return b.unsqueeze(vector, [place for place in range(rank) if place != dim])


def count(b: GraphBuilder, x: Value, dims: Sequence[int]) -> int | Value:
    """How many elements these dimensions hold together; a 0-d int64 value if that is not known."""
    total: int | Value = 1
    for dim in dims:
        total = times(b, total, b.size(x, dim))
    return total


def times(b: GraphBuilder, x: int | Value, y: int | Value) -> int | Value:
    """The product of two sizes."""
    if isinstance(x, int) and isinstance(y, int):
        return x * y
    if x == 1 or y == 1:
        return y if x == 1 else x
    return binary(b, "Mul", x, y)


def flat(b: GraphBuilder, x: Value) -> Value:
    """The elements in order, 1-D."""
    return b.reshape(x, [count(b, x, range(x.rank))])


# Reductions


def reduced(x: Value, dims: Sequence[int], keep: bool) -> tuple[int | None, ...]:
    """The shape after a reduction over these dimensions (counted from the front)."""
    return tuple(1 if place in dims else size for place, size in enumerate(x.shape) if keep or place not in dims)


def reduce(b: GraphBuilder, kind: str, x: Value, dims: Sequence[int], keep: bool) -> Value:
    """A sum, mean, product or extreme over these dimensions; of a single number it is that number."""
    if not dims or not x.rank:
        return x
    shape = reduced(x, dims, keep)
    return b.op(kind, [x, b.ints(list(dims))], None, shape, symbols=(None,) * len(shape), keepdims=int(keep))


def anywhere(b: GraphBuilder, x: Value, dims: Sequence[int], keep: bool) -> Value:
    """Whether a bool is true somewhere along these dimensions."""
    if not dims:
        return x
    return b.opposite(equal(b, reduce(b, "ReduceMax", b.cast(x, torch.int32), dims, keep), 0))


def extreme(b: GraphBuilder, kind: str, x: Value, dims: Sequence[int], keep: bool) -> Value:
    """``ReduceMax`` or ``ReduceMin``; NaN if one is NaN."""
    if not dims:
        return x
    if x.dtype is torch.bool:
        return b.cast(reduce(b, kind, b.cast(x, torch.int32), dims, keep), torch.bool)
    found = reduce(b, kind, x, dims, keep)
    if not x.is_float:
        return found
    plain_extremes(b, x, found)
    if b.flavour == "openvino":  # which begins with the largest finite number, not with infinity
        least = -math.inf if kind == "ReduceMax" else math.inf
        found = select(b, anywhere(b, b.opposite(equal(b, x, least)), dims, keep), found, least)
    return select(b, anywhere(b, isnan(b, x), dims, keep), math.nan, found)


def first_place(b: GraphBuilder, hit: Value, dim: int, keep: bool) -> Value:
    """Along a dimension the first place where a bool is true: int64."""
    shape = reduced(hit, [dim], keep)
    if b.flavour == "tensorrt":  # whose ArgMax says of several places any
        size = b.size(hit, dim)
        places = along(b, iota(b, size), dim, hit.rank)
        wide_shape = joint(hit.shape, places.shape)
        found = b.op("Where", [hit, places, b.tensor(size, torch.int64)], torch.int64, wide_shape)
        return reduce(b, "ReduceMin", found, [dim], keep)
    number = b.cast(hit, torch.float32)
    return b.op("ArgMax", [number], torch.int64, shape, symbols=(None,) * len(shape), axis=dim, keepdims=int(keep))
