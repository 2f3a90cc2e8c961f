"""Ops that make a tensor out of numbers and sizes."""

from __future__ import annotations

import math
from typing import Any

from djinn_fx.engines.tensorrt.call import Call, wide
from djinn_fx.engines.tensorrt.converters.elementwise import operand
from djinn_fx.engines.tensorrt.emitter import MAX_CONSTANT, Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, NUMBERS, Refused, converts


def filled(emitter: Emitter, call: Call, number: Any) -> Value:
    """One number everywhere."""
    value = operand(emitter, number, call.dtype, len(call.shape))
    return emitter.broadcast(value, call.shape)


@converts("full.default", "full_like.default", "new_full.default")
def _full(emitter: Emitter, call: Call) -> Value:
    return filled(emitter, call, call["fill_value"])


@converts("fill.Scalar", "fill.Tensor", "fill_.Scalar", "fill_.Tensor")
def _fill(emitter: Emitter, call: Call) -> Value:
    return filled(emitter, call, call["value"])


@converts("scalar_tensor.default")
def _scalar(emitter: Emitter, call: Call) -> Value:
    return filled(emitter, call, call["s"])


@converts("zeros.default", "zeros_like.default", "new_zeros.default", "zero.default", "zero_.default")
def _zeros(emitter: Emitter, call: Call) -> Value:
    return filled(emitter, call, 0)


@converts("ones.default", "ones_like.default", "new_ones.default")
def _ones(emitter: Emitter, call: Call) -> Value:
    return filled(emitter, call, 1)


@converts("empty.memory_format", "empty_like.default", "new_empty.default", "empty_permuted.default",
          "empty_strided.default", "new_empty_strided.default")  # fmt: skip
def _empty(emitter: Emitter, call: Call) -> Value:
    """What it holds is anybody's guess, so zeros will do."""
    return filled(emitter, call, 0)


@converts("arange.default", "arange.start", "arange.start_step", types=NUMBERS, results=NUMBERS)
def _arange(emitter: Emitter, call: Call) -> Value:
    start = call["start"] if call.has("start") else 0
    step = call["step"] if call.has("step") else 1
    if not isinstance(step, (int, float)):
        raise Refused("with a step that is not known when built")
    (size,) = call.shape
    dtype = wide(call.dtype)
    if isinstance(start, (int, float)):
        if isinstance(size, int) and size <= MAX_CONSTANT:
            return emitter.constant([_exact(start, step, index, dtype) for index in range(size)], call.dtype)
        if dtype in FLOATS and (start != int(start) or step != int(step)):
            raise Refused("of numbers that are not whole, of a size that is not known when built")
        kind = "float32" if dtype in FLOATS else "int64"
        return emitter.cast(emitter.iota(size, kind, start, step), call.dtype)
    steps = emitter.cast(emitter.iota(size, "int64", 0, step), dtype)
    return emitter.cast(emitter.binary("sum", steps, operand(emitter, start, dtype, 1)), call.dtype)


def _exact(start: float, step: float, index: int, dtype: str) -> float:
    """An element, computed in double precision as torch does."""
    if dtype in FLOATS:
        return float(start) + float(step) * index
    return int(start) + int(step) * index


@converts("linspace.default", results=FLOATS)
def _linspace(emitter: Emitter, call: Call) -> Value:
    """Of known numbers: from both ends towards the middle, as torch does."""
    start, end, steps = call["start"], call["end"], call["steps"]
    if not all(isinstance(one, (int, float)) for one in (start, end, steps)) or steps > MAX_CONSTANT:
        raise Refused("of numbers that are not known when built")
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    if not math.isfinite(step):
        raise Refused("of numbers that are not finite")
    values = [start + step * i if i < steps // 2 else end - step * (steps - 1 - i) for i in range(steps)]
    return emitter.constant(values if steps > 1 else [start], call.dtype)


@converts("eye.default", "eye.m")
def _eye(emitter: Emitter, call: Call) -> Value:
    rows, columns = call.shape
    row = emitter.reshape(emitter.iota(rows), [rows, 1])
    column = emitter.reshape(emitter.iota(columns), [1, columns])
    return emitter.cast(emitter.binary("equal", row, column), call.dtype)
