"""Ops of two or three tensors, element by element; where a number may stand for a tensor."""

from __future__ import annotations

from typing import Any

import torch

from djinn_fx.engines.tensorrt.call import Call, wide
from djinn_fx.engines.tensorrt.constants import exact
from djinn_fx.engines.tensorrt.converters.unary import clamped, truncated, truth
from djinn_fx.engines.tensorrt.emitter import HALVES, Emitter, Value
from djinn_fx.engines.tensorrt.support import ALL, FLOATS, INTEGERS, Refused, converts, dtype_name


def operand(emitter: Emitter, given: Any, dtype: str, rank: int = 0) -> Value:
    """A tensor, a number or a size as a value of this type; numbers get this rank."""
    if isinstance(given, Value):
        return emitter.cast(given, dtype)
    if isinstance(given, torch.SymInt):
        return emitter.number(emitter.sizes.formula(given), dtype, rank)
    if isinstance(given, (bool, int, float)):
        return emitter.scalar(given, dtype, rank)
    raise Refused(f"with the operand {given!r}")


def common_type(call: Call, *names: str) -> str:
    """The type torch promotes these arguments to.

    Raises:
        Refused: TensorRT has none such.
    """
    fakes = [call.fake(name) for name in names]
    fakes = [1 if isinstance(fake, torch.SymInt) else fake for fake in fakes]
    promoted = torch.result_type(*fakes) if len(fakes) == 2 else fakes[0].dtype
    name = dtype_name(promoted)
    if name not in ALL:
        raise Refused(f"computed in {name}")
    return name


def _in_wide(dtype: str, *given: Any) -> bool:
    """Whether torch's result needs float32: a number that the half type would round first."""
    return dtype in HALVES and any(isinstance(one, (int, float)) and not exact(one, dtype) for one in given)


def pair(emitter: Emitter, call: Call, dtype: str, left: str = "self", right: str = "other") -> tuple[Value, Value]:
    """Both operands in this type."""
    first, second = call[left], call[right]
    rank = max((one.rank for one in (first, second) if isinstance(one, Value)), default=0)
    return operand(emitter, first, dtype, rank), operand(emitter, second, dtype, rank)


@converts("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Tensor", "rsub.Scalar")
def _add(emitter: Emitter, call: Call) -> Value:
    dtype, alpha = call.dtype, call["alpha"]
    reverse, minus = "rsub" in call.name, "sub" in call.name
    if dtype == "bool":
        if minus or alpha not in (1, True):
            raise Refused("of bools, with a sign or a factor")
        return emitter.binary("or", *pair(emitter, call, "bool"))
    compute = "float32" if _in_wide(dtype, call["self"], call["other"]) else dtype
    if alpha != 1:
        if dtype in INTEGERS and isinstance(alpha, float):
            raise Refused("of integers with a factor that is none")
        compute = wide(dtype)
    first, second = pair(emitter, call, compute)
    if reverse:
        first, second = second, first
    if alpha != 1:
        second = emitter.binary("prod", second, operand(emitter, alpha, compute))
    return emitter.cast(emitter.binary("sub" if minus else "sum", first, second), dtype)


@converts("mul.Tensor", "mul.Scalar")
def _mul(emitter: Emitter, call: Call) -> Value:
    dtype = call.dtype
    if dtype == "bool":
        return emitter.binary("and", *pair(emitter, call, "bool"))
    compute = "float32" if _in_wide(dtype, call["self"], call["other"]) else dtype
    return emitter.cast(emitter.binary("prod", *pair(emitter, call, compute)), dtype)


@converts("div.Tensor", "div.Scalar", "true_divide.Tensor", "true_divide.Scalar", results=FLOATS)
def _div(emitter: Emitter, call: Call) -> Value:
    return emitter.cast(emitter.binary("div", *pair(emitter, call, wide(call.dtype))), call.dtype)


def floor_of_integers(emitter: Emitter, first: Value, second: Value) -> Value:
    """Quotient rounded down. Right whether TensorRT's division truncates or rounds down."""
    quotient = emitter.binary("div", first, second)
    rest = emitter.binary("sub", first, emitter.binary("prod", quotient, second))
    signs = emitter.binary("xor", emitter.with_number("less", rest, 0), emitter.with_number("less", second, 0))
    lower = emitter.binary("and", truth(emitter, rest), signs)
    return emitter.binary("sub", quotient, emitter.cast(lower, first.dtype))


def _trunc_of_integers(emitter: Emitter, first: Value, second: Value) -> Value:
    """Quotient rounded towards zero: the one rounded down, and one more where that is away from zero."""
    quotient = floor_of_integers(emitter, first, second)
    rest = emitter.binary("sub", first, emitter.binary("prod", quotient, second))
    apart = emitter.binary("xor", emitter.with_number("less", first, 0), emitter.with_number("less", second, 0))
    higher = emitter.binary("and", truth(emitter, rest), apart)
    return emitter.binary("sum", quotient, emitter.cast(higher, first.dtype))


@converts("div.Tensor_mode", "div.Scalar_mode", "floor_divide.default", "floor_divide.Scalar")
def _rounded_div(emitter: Emitter, call: Call) -> Value:
    mode = call["rounding_mode"] if call.has("rounding_mode") else "floor"
    dtype = call.dtype
    if mode is None:
        made: Value = _div(emitter, call)
        return made
    first, second = pair(emitter, call, wide(dtype))
    if dtype in INTEGERS:
        divide = floor_of_integers if mode == "floor" else _trunc_of_integers
        return divide(emitter, first, second)
    if dtype not in FLOATS:
        raise Refused(f"of {dtype}")
    if mode == "floor":
        raise Refused("rounded down, of floats: torch corrects the quotient by the remainder, TensorRT has none")
    # torch rounds the quotient to its own type before it cuts it off.
    return truncated(emitter, emitter.cast(emitter.binary("div", first, second), dtype))


@converts("remainder.Tensor", "remainder.Scalar", "fmod.Tensor", "fmod.Scalar")
def _remainder(emitter: Emitter, call: Call) -> Value:
    if call.dtype not in INTEGERS:
        raise Refused(f"of {call.dtype}: TensorRT has no exact remainder")
    first, second = pair(emitter, call, call.dtype)
    whole = (floor_of_integers if "remainder" in call.name else _trunc_of_integers)(emitter, first, second)
    return emitter.binary("sub", first, emitter.binary("prod", whole, second))


@converts("pow.Tensor_Scalar")
def _power(emitter: Emitter, call: Call) -> Value:
    exponent, dtype = call["exponent"], call.dtype
    if not isinstance(exponent, (int, float)):
        raise Refused(f"with the exponent {exponent}")
    if dtype not in FLOATS and (exponent != int(exponent) or not 0 <= exponent <= 64 or dtype == "bool"):
        raise Refused(f"of {dtype} with the exponent {exponent}")
    value = emitter.cast(call.tensor("self"), wide(dtype))
    return emitter.cast(_raised(emitter, value, float(exponent)), dtype)


def _raised(emitter: Emitter, value: Value, exponent: float) -> Value:
    """A power with a number for an exponent; whole ones by products, so that no sign is lost."""
    if exponent == 0.5:
        return emitter.unary("sqrt", value)
    if exponent < 0 and (exponent == int(exponent) or exponent == -0.5):
        return emitter.unary("recip", _raised(emitter, value, -exponent))
    if exponent == int(exponent) and exponent <= 64:
        count = int(exponent)
        if count == 0:
            return emitter.full(1, value.dtype, value.shape)
        result, square = None, value
        while count:
            if count & 1:
                result = square if result is None else emitter.binary("prod", result, square)
            count >>= 1
            if count:
                square = emitter.binary("prod", square, square)
        assert result is not None
        return result
    if exponent == int(exponent) or abs(exponent) == float("inf") or exponent != exponent:
        raise Refused(f"with the exponent {exponent}")
    # Of negative bases torch gives NaN; of minus infinity what it gives of infinity.
    size = emitter.binary("pow", emitter.unary("abs", value), emitter.scalar(exponent, value.dtype, value.rank))
    negative = emitter.with_number("less", value, 0.0)
    finite = emitter.invert(emitter.unary("isinf", value))
    undefined = emitter.binary("and", negative, finite)
    return emitter.select(undefined, emitter.scalar(float("nan"), value.dtype, value.rank), size)


@converts("pow.Scalar", results=FLOATS)
def _power_of(emitter: Emitter, call: Call) -> Value:
    base = call["self"]
    if not isinstance(base, (int, float)) or not 0 < base < float("inf"):
        raise Refused(f"of the base {base}: TensorRT's power is trusted for positive ones")
    exponent = emitter.cast(call["exponent"], wide(call.dtype))
    return emitter.cast(
        emitter.binary("pow", emitter.scalar(base, exponent.dtype, exponent.rank), exponent), call.dtype
    )


@converts("pow.Tensor_Tensor", results=FLOATS)
def _power_of_tensors(emitter: Emitter, call: Call) -> Value:
    """By the power of the base's size, with what the sign makes of it; 1 where C says so for NaN, too."""
    base, exponent = pair(emitter, call, wide(call.dtype), "self", "exponent")
    dtype, rank = base.dtype, max(base.rank, exponent.rank)
    one, size = emitter.scalar(1.0, dtype, rank), emitter.unary("abs", base)
    unit = emitter.binary("or", emitter.with_number("equal", base, 1.0), emitter.with_number("equal", exponent, 0.0))
    endless = emitter.binary("and", emitter.with_number("equal", base, -1.0), emitter.unary("isinf", exponent))
    power = emitter.select(emitter.binary("or", unit, endless), one, emitter.binary("pow", size, exponent))
    # One over minus zero is less than zero, as minus zero itself is not.
    below = emitter.with_number("less", emitter.unary("recip", base), 0.0)
    negative = emitter.binary("or", emitter.with_number("less", base, 0.0), below)
    whole = emitter.binary("equal", emitter.unary("floor", exponent), exponent)
    half = emitter.with_number("prod", exponent, 0.5)
    odd = emitter.binary("and", whole, emitter.invert(emitter.binary("equal", emitter.unary("floor", half), half)))
    power = emitter.select(emitter.binary("and", negative, odd), emitter.unary("neg", power), power)
    finite = emitter.invert(emitter.binary("or", emitter.unary("isinf", base), emitter.with_number("equal", base, 0.0)))
    undefined = emitter.binary("and", emitter.binary("and", negative, finite), emitter.invert(whole))
    return emitter.cast(emitter.select(undefined, emitter.scalar(float("nan"), dtype, rank), power), call.dtype)


# Comparisons


def compare(emitter: Emitter, op: str, first: Value, second: Value) -> Value:
    """eq ne lt le gt ge; with NaN only ne holds."""
    if first.dtype == "bool" and op not in ("eq", "ne"):
        first, second = emitter.cast(first, "int32"), emitter.cast(second, "int32")
    if op in ("eq", "ne"):
        equal = emitter.binary("equal", first, second)
        return equal if op == "eq" else emitter.invert(equal)
    strict = emitter.binary("less" if op in ("lt", "le") else "greater", first, second)
    return strict if op in ("lt", "gt") else emitter.binary("or", strict, emitter.binary("equal", first, second))


@converts(*(f"{op}.{kind}" for op in ("eq", "ne", "lt", "le", "gt", "ge") for kind in ("Tensor", "Scalar")))
def _compare(emitter: Emitter, call: Call) -> Value:
    dtype = common_type(call, "self", "other")
    if _in_wide(dtype, call["other"]):
        raise Refused(f"{dtype} with a number it cannot hold")
    return compare(emitter, call.name.split(".")[1], *pair(emitter, call, dtype))


@converts("logical_and.default", "logical_or.default", "logical_xor.default")
def _logical(emitter: Emitter, call: Call) -> Value:
    op = call.name.split(".")[1].removeprefix("logical_")
    return emitter.binary(op, truth(emitter, call["self"]), truth(emitter, call["other"]))


@converts(*(f"bitwise_{op}.{kind}" for op in ("and", "or", "xor") for kind in ("Tensor", "Scalar")))
def _bitwise(emitter: Emitter, call: Call) -> Value:
    if call.dtype != "bool":
        raise Refused(f"of {call.dtype}: TensorRT has no operations on bits")
    return emitter.binary(call.name.split(".")[1].removeprefix("bitwise_"), *pair(emitter, call, "bool"))


# Choices


def larger(emitter: Emitter, first: Value, second: Value, op: str) -> Value:
    """max or min of two; NaN if one is NaN."""
    if first.dtype not in FLOATS or not emitter.options.propagate_nan:
        return emitter.binary(op, first, second)
    ahead = emitter.binary("greater" if op == "max" else "less", first, second)
    # Where the second is NaN nothing is ahead of it, so it is chosen.
    return emitter.select(emitter.binary("or", ahead, emitter.unary("isnan", first)), first, second)


@converts("maximum.default", "minimum.default")
def _extremum(emitter: Emitter, call: Call) -> Value:
    op = "max" if "maximum" in call.name else "min"
    if call.dtype == "bool":
        return emitter.binary("or" if op == "max" else "and", *pair(emitter, call, "bool"))
    return larger(emitter, *pair(emitter, call, call.dtype), op)


@converts("clamp.default", "clamp_min.default", "clamp_max.default")
def _clamp(emitter: Emitter, call: Call) -> Value:
    least = call["min"] if call.has("min") else None
    most = call["max"] if call.has("max") else None
    if call.dtype == "bool":
        raise Refused("of bool")
    for bound in (least, most):
        if bound is not None and (not isinstance(bound, (int, float)) or bound != bound):
            raise Refused(f"with the bound {bound}")
    value = emitter.cast(call.tensor("self"), call.dtype)
    return clamped(emitter, value, least, most)


@converts("clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor")
def _clamp_tensor(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), call.dtype)
    if call.dtype == "bool":
        raise Refused("of bool")
    for name, op in (("min", "max"), ("max", "min")):
        bound = call[name] if call.has(name) else None
        if bound is not None:
            value = larger(emitter, value, emitter.cast(bound, call.dtype), op)
    return emitter.broadcast(value, call.shape)


@converts("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(emitter: Emitter, call: Call) -> Value:
    condition = call.tensor("condition")
    if condition.dtype != "bool":
        raise Refused(f"with a condition of {condition.dtype}")
    first, second = pair(emitter, call, call.dtype)
    return emitter.select(condition, first, second)


@converts("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(emitter: Emitter, call: Call) -> Value:
    value, mask = call.tensor("self"), call.tensor("mask")
    if mask.dtype != "bool":
        raise Refused(f"with a mask of {mask.dtype}")
    return emitter.select(mask, operand(emitter, call["value"], value.dtype, value.rank), value)


@converts("addcmul.default", "addcdiv.default")
def _addc(emitter: Emitter, call: Call) -> Value:
    dtype = wide(call.dtype)
    if dtype == "bool" or (dtype in INTEGERS and "div" in call.name):
        raise Refused(f"of {call.dtype}")
    first, one, two = (emitter.cast(call[name], dtype) for name in ("self", "tensor1", "tensor2"))
    if call["value"] != 1:
        one = emitter.binary("prod", one, operand(emitter, call["value"], dtype))
    product = emitter.binary("div" if "div" in call.name else "prod", one, two)
    return emitter.cast(emitter.binary("sum", first, product), call.dtype)


@converts("lerp.Scalar", "lerp.Tensor", types=FLOATS)
def _lerp(emitter: Emitter, call: Call) -> Value:
    """From the nearer end, as torch does it."""
    dtype = wide(call.dtype)
    start, end = emitter.cast(call.tensor("self"), dtype), emitter.cast(call["end"], dtype)
    weight = operand(emitter, call["weight"], dtype)
    step = emitter.binary("sub", end, start)
    near = emitter.binary("sum", start, emitter.binary("prod", weight, step))
    rest = emitter.binary("sub", emitter.scalar(1.0, dtype), weight)
    far = emitter.binary("sub", end, emitter.binary("prod", step, rest))
    return emitter.cast(
        emitter.select(emitter.with_number("less", emitter.unary("abs", weight), 0.5), near, far), call.dtype
    )
