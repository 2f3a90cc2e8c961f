"""What an operator needs of its floating-point numbers so that the runtime computes what torch does.

A converter that knows no cheap form which is right for all numbers requires here that they are such as it is right
for (``GraphBuilder.require``). One pass over a tensor is enough for most: its sum of squares is a finite number only if
none of the elements is NaN, infinite, or so large that sums and squares of it leave the type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from djinn_fx.engines.onnx.graph import GraphBuilder, Value

#: Sums of squares up to this are finite, and so are sums of as many products.
_MOST = 3e38
#: Between these sums of sizes no sum of squares leaves the type, and no product with an ordinary number.
_MOST_L1, _LEAST_L1 = 1.8e19, 1e-12
#: Beside a number outside of these, the runtimes' quotients and remainders lose digits, or leave the type.
ORDINARY = (1e-30, 1e30)

#: Sums of squares above this are of tensors in which not all numbers are tiny.
LIVELY = 1e-30
#: So many elements are looked at wherever they are.
_FEW = 4096
#: So often in a model, of so many calls at most: each look is four operators, and in a step of a decoder, where all
#: tensors are small, a look at four of its hundreds took 2 to 5 %.
_LOOKS, _MOST_CALLS = 4, 64

Converter = Callable[..., Any]


def calm(b: GraphBuilder, *values: Value | None, least: float | None = None) -> None:
    """Require that no element is NaN, infinite or huge: the sum of the squares of each tensor stays finite.

    Args:
        b: the builder.
        values: of any types; those that do not vary are passed over.
        least: that sum must be above this, so that not all elements are zeros of some sign, or denormals.
    """
    for value in values if _passes_over(b) else ():
        if value is None or not _varies(b, value):
            continue
        number = _number(b, value)
        # OpenVINO's reader takes the sum of squares apart into two passes, the norm not.
        kind = "ReduceL2" if b.flavour == "openvino" else "ReduceSumSquare"
        total = b.op(kind, [number], None, (), keepdims=0) if number.rank else b.op("Abs", [number])
        b.require(b.op("Less", [total, b.constant(_MOST, number.dtype)], torch.bool, ()), of_floats=True)
        if least is not None:
            b.require(b.op("Less", [b.constant(least, number.dtype), total], torch.bool, ()), of_floats=True)


def is_cheap(b: GraphBuilder, value: Value) -> bool:
    """Whether a look at a value is worth it: at an argument of the region, or at a few small tensors of a small graph.

    For the operators that models are made of. In the middle of a larger graph, or in a large tensor, a NaN or an
    infinity shows in the graph's results, which the guard looks at in every call.
    """
    if b.before_transpose(value).name in b.given:
        return True
    if b.calls > _MOST_CALLS or None in value.shape or math.prod(size or 0 for size in value.shape) > _FEW:
        return False
    b.looks += 1
    return b.looks <= _LOOKS


def calm_where_cheap(b: GraphBuilder, *values: Value | None, least: float | None = None) -> None:
    """As :func:`calm`, of those values of which :func:`is_cheap` says so."""
    calm(b, *(one for one in values if one is not None and is_cheap(b, one)), least=least)


def calm_arguments(b: GraphBuilder, *values: Value | None) -> None:
    """As :func:`calm`, of those values that are arguments of the region.

    For the operators that models are made of: what other operators gave them is finite, or shows in the results.
    """
    plain = [b.before_moved(one) for one in values if one is not None]
    calm(b, *(one for one in plain if one.name in b.given))


def for_products(b: GraphBuilder, *factors: Value, bias: Value | None = None) -> None:
    """Require of factors that are arguments of the region that no product of theirs leaves the type, at either end.

    Where all products are too small for the type, the sign of the zero that they add up to is a matter of order; beside
    a bias it is not seen. Torch begins with the bias, so that -0 stays what it is where products are 0.
    """
    if not _passes_over(b):
        return
    plain = [one for one in map(b.before_moved, factors) if one.name in b.given and _varies(b, one)]
    for value in dict.fromkeys(plain):
        number = _number(b, value)
        total = b.op("ReduceL1", [number], None, (), keepdims=0) if number.rank else b.op("Abs", [number])
        b.require(b.op("Less", [total, b.constant(_MOST_L1, number.dtype)], torch.bool, ()), of_floats=True)
        if bias is None:
            none = b.op("Equal", [total, b.constant(0.0, number.dtype)], torch.bool, ())
            some = b.op("Less", [b.constant(_LEAST_L1, number.dtype), total], torch.bool, ())
            b.require(b.op("Or", [none, some], torch.bool, ()), of_floats=True)
    if bias is not None and b.before_moved(bias).name in b.given and _varies(b, bias):
        calm(b, bias)
        plain_zeros(b, bias)


def plain_zeros(b: GraphBuilder, value: Value) -> None:
    """Require that no element is -0 (or a negative denormal)."""
    if _varies(b, value) and _passes_over(b):
        b.require(_plain(b, value), of_floats=True)


def plain_extremes(b: GraphBuilder, value: Value, result: Value) -> None:
    """Require of largest or smallest elements that they are not 0 where there is a -0: the order decides which.

    Looked at where :func:`is_cheap` says so.
    """
    if not _varies(b, value) or not _passes_over(b) or not is_cheap(b, value):
        return
    number = _number(b, result)
    zero = b.op("Equal", [number, b.constant(0.0, number.dtype)], torch.bool)
    some, all_plain = _over_all(b, zero, "ReduceMax"), _over_all(b, _plain(b, value), "ReduceMin")
    b.require(b.op("Or", [b.opposite(some), all_plain], torch.bool, ()), of_floats=True)


def _plain(b: GraphBuilder, value: Value) -> Value:
    """Whether the reciprocals are other than -inf, which those of -0 and of the tiniest negative numbers are."""
    number = _number(b, value)
    turned = b.op("Reciprocal", [number])
    return b.opposite(b.op("Equal", [turned, b.constant(-math.inf, number.dtype)], torch.bool))


def _over_all(b: GraphBuilder, truth: Value, kind: str) -> Value:
    if not truth.rank:
        return truth
    return b.cast(b.op(kind, [b.cast(truth, torch.int32)], None, (), keepdims=0), torch.bool)


def within(b: GraphBuilder, value: Value, least: float, most: float) -> Value:
    """Require that each element lies between two numbers, both included; NaN does not.

    Returns:
        The value with another number, between these, in place of what lies outside.
    """
    if not _varies(b, value):
        return value
    low, high = b.constant(least, value.dtype), b.constant(most, value.dtype)
    above = b.op("LessOrEqual", [low, value], torch.bool, value.shape)
    below = b.op("LessOrEqual", [value, high], torch.bool, value.shape)
    inside = b.op("And", [above, below], torch.bool, value.shape)
    b.require(inside, of_floats=True)
    return b.where(b.opposite(inside), low, value, value.shape)  # in this order -0 stays, in ONNX Runtime


def exceeds(b: GraphBuilder, value: Value, least: float) -> None:
    """Require that each element is above a number."""
    if _varies(b, value) and _passes_over(b):
        b.require(b.op("Less", [b.constant(least, value.dtype), value], torch.bool, value.shape), of_floats=True)


def at_most(b: GraphBuilder, value: Value, most: float) -> None:
    """Require that no element is NaN, or above a number."""
    if _varies(b, value):
        number = _number(b, value)
        b.require(b.op("LessOrEqual", [number, b.constant(most, number.dtype)], torch.bool), of_floats=True)


def ordinary(b: GraphBuilder, *values: Value | None, least: float = ORDINARY[0], most: float = ORDINARY[1]) -> None:
    """Require that the size of each element is 0 or lies between two numbers."""
    for value in values if _passes_over(b) else ():
        if value is None or not _varies(b, value):
            continue
        number = _number(b, value)
        size = b.op("Abs", [number])
        low, high, zero = (b.constant(one, number.dtype) for one in (least, most, 0.0))
        above = b.op("LessOrEqual", [low, size], torch.bool, size.shape)
        above = b.op("Or", [above, b.op("Equal", [size, zero], torch.bool)], torch.bool)
        b.require(b.op("And", [above, b.op("LessOrEqual", [size, high], torch.bool)], torch.bool), of_floats=True)


def stored_whole(b: GraphBuilder, result: Value) -> None:
    """Require of a result that its type's smallest numbers, if there are any, are stored as what they are.

    The instruction by which OpenVINO stores bfloat16 makes zeros of numbers below the smallest normal one.
    """
    source = b.rounded.get(b.before_moved(result).name)
    if source is not None and result.dtype is torch.bfloat16:
        rounds_whole(b, source)


def rounds_whole(b: GraphBuilder, value: Value) -> None:
    """As :func:`stored_whole`, of a value that is about to be rounded to bfloat16."""
    if b.flavour != "openvino" or value.dtype not in (torch.float32, torch.float64) or not _varies(b, value):
        return
    size = b.op("Abs", [value])
    zero, least = (b.constant(one, value.dtype) for one in (0.0, torch.finfo(torch.bfloat16).smallest_normal))
    above = b.op("Less", [zero, size], torch.bool, size.shape)
    tiny = b.op("And", [above, b.op("Less", [size, least], torch.bool, size.shape)], torch.bool, size.shape)
    b.require(b.opposite(tiny), of_floats=True)


def needs(require: Callable[..., None]) -> Callable[[Converter], Converter]:
    """A converter that first requires something of all floating-point tensors among its arguments."""

    def wrap(convert: Converter) -> Converter:
        @functools.wraps(convert)
        def careful(b: GraphBuilder, node: Any, *args: Any, **kwargs: Any) -> Any:
            require(b, *_floats((*args, *kwargs.values())))
            return convert(b, node, *args, **kwargs)

        return careful

    return wrap


def _floats(given: Iterable[Any]) -> list[Value]:
    found: list[Value] = []
    for one in given:
        if isinstance(one, Value) and one.is_float:
            found.append(one)
        elif isinstance(one, (list, tuple)):
            found += _floats(one)
    return found


def _number(b: GraphBuilder, value: Value) -> Value:
    """A value in a type whose sums of squares hold what the value may be: halves in float32."""
    return b.cast(value, torch.float32) if value.dtype in (torch.float16, torch.bfloat16) else value


def _varies(b: GraphBuilder, value: Value) -> bool:
    return value.is_float and b.array_of(value) is None and 0 not in value.shape


def _passes_over(b: GraphBuilder) -> bool:
    """Whether a runtime's kernels leave out, or lose, what is not finite; a GPU's add and multiply every element."""
    return b.flavour != "tensorrt"
