"""Products of matrices.

Halves are multiplied with ``wide``: TensorRT then adds up in float32 and rounds once, as torch does. What is added
afterwards (a bias) is added to the rounded product: in float32 it would keep TensorRT from using a half-precision
kernel at all.
"""

from __future__ import annotations

from typing import Any

from djinn_fx.engines.tensorrt.call import Call
from djinn_fx.engines.tensorrt.converters.elementwise import operand
from djinn_fx.engines.tensorrt.emitter import HALVES, Emitter, Value, broadcast_shapes
from djinn_fx.engines.tensorrt.support import FLOATS, Refused, converts


def product(emitter: Emitter, first: Value, second: Value) -> Value:
    """The product over the last two dimensions, of values of equal rank; the others are broadcast."""
    flipped = [value.number in emitter.exchanged for value in (first, second)]
    one, two = (emitter.exchanged.get(value.number, value) for value in (first, second))
    shape = [*broadcast_shapes(first.shape[:-2], second.shape[:-2]), first.shape[-2], second.shape[-1]]
    return emitter.layer(
        "matmul",
        [one, two],
        first.dtype,
        shape,
        transpose_a=flipped[0],
        transpose_b=flipped[1],
        wide=first.dtype in HALVES and emitter.options.wide_accumulation,
    )


@converts("mm.default", "bmm.default", types=FLOATS)
def _mm(emitter: Emitter, call: Call) -> Value:
    return product(emitter, call.tensor("self"), call["mat2"])


@converts("matmul.default", types=FLOATS)
def _matmul(emitter: Emitter, call: Call) -> Value:
    return general(emitter, call.tensor("self"), call["other"])


def general(emitter: Emitter, first: Value, second: Value) -> Value:
    """torch.matmul: vectors become matrices of one row or column, which go away again."""
    if first.rank == 0 or second.rank == 0:
        raise Refused("of single numbers")
    row, column = first.rank == 1, second.rank == 1
    first = emitter.unsqueeze(first, [0]) if row else first
    second = emitter.unsqueeze(second, [1]) if column else second
    made = product(emitter, *emitter.align(first, second))
    gone = ([made.rank - 2] if row else []) + ([made.rank - 1] if column else [])
    return emitter.squeeze(made, gone)


@converts("dot.default", "vdot.default", "mv.default", types=FLOATS)
def _vector(emitter: Emitter, call: Call) -> Value:
    name = "vec" if "mv" in call.name else ("other" if "vdot" in call.name else "tensor")
    return general(emitter, call.tensor("self"), call[name])


@converts("linear.default", types=FLOATS)
def _linear(emitter: Emitter, call: Call) -> Value:
    made = general(emitter, call.tensor("input"), emitter.permute(call["weight"], [1, 0]))
    return made if call["bias"] is None else emitter.binary("sum", made, call["bias"])


def scaled(emitter: Emitter, value: Value, factor: Any) -> Value:
    """Times a number, rounded once."""
    if factor == 1:
        return value
    wide = emitter.cast(value, "float32")
    return emitter.cast(emitter.binary("prod", wide, operand(emitter, factor, "float32", value.rank)), value.dtype)


@converts("addmm.default", "addmv.default", "baddbmm.default", types=FLOATS)
def _addmm(emitter: Emitter, call: Call) -> Value:
    """A factor of 0 leaves the addend out, NaN and all, as torch has it."""
    names = {"addmm": ("mat1", "mat2"), "addmv": ("mat", "vec"), "baddbmm": ("batch1", "batch2")}
    first, second = (call[name] for name in names[call.name.split(".")[1]])
    made = scaled(emitter, general(emitter, first, second), call["alpha"])
    if call["beta"] == 0:
        return made
    return emitter.binary("sum", made, scaled(emitter, call.tensor("self"), call["beta"]))
