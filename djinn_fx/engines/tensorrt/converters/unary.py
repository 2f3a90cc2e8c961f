"""Ops of one tensor, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

from djinn_fx.engines.tensorrt.call import Call, needs_float, wide
from djinn_fx.engines.tensorrt.emitter import Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, NUMBERS, Refused, converts

#: ATen ops that are one unary layer of floats. Halves are computed in float32, as torch does.
_FUNCTIONS = (
    "exp log sqrt sin cos tan sinh cosh asin acos atan asinh acosh atanh erf".split()  # the same names in TensorRT
)


def compute(emitter: Emitter, call: Call, name: str = "self") -> Value:
    """An argument in the type torch computes in: the result's, float32 for halves."""
    value: Value = call[name]
    return emitter.cast(value, wide(call.dtype))


def _function(op: str) -> Callable[[Emitter, Call], Value]:
    def convert(emitter: Emitter, call: Call) -> Value:
        return emitter.cast(emitter.unary(op, compute(emitter, call)), call.dtype)

    return convert


for _name in _FUNCTIONS:
    converts(f"{_name}.default", results=FLOATS)(_function(_name))


@converts("tanh.default", "sigmoid.default", results=FLOATS)
def _squash(emitter: Emitter, call: Call) -> Value:
    op = "tanh" if "tanh" in call.name else "sigmoid"
    return emitter.cast(emitter.activation(op, compute(emitter, call)), call.dtype)


@converts("reciprocal.default", "rsqrt.default", results=FLOATS)
def _reciprocal(emitter: Emitter, call: Call) -> Value:
    value = compute(emitter, call)
    if "rsqrt" in call.name:
        value = emitter.unary("sqrt", value)
    return emitter.cast(emitter.unary("recip", value), call.dtype)


@converts("exp2.default", results=FLOATS)
def _exp2(emitter: Emitter, call: Call) -> Value:
    value = compute(emitter, call)
    return emitter.cast(emitter.binary("pow", emitter.scalar(2.0, value.dtype, value.rank), value), call.dtype)


@converts("log2.default", "log10.default", results=FLOATS)
def _log(emitter: Emitter, call: Call) -> Value:
    value = emitter.unary("log", compute(emitter, call))
    base = math.log(2.0 if "log2" in call.name else 10.0)
    return emitter.cast(emitter.with_number("div", value, base), call.dtype)


@converts("neg.default", "abs.default", types=NUMBERS)
def _exact(emitter: Emitter, call: Call) -> Value:
    return emitter.unary("neg" if "neg" in call.name else "abs", call.tensor("self"))


@converts("floor.default", "ceil.default", "round.default", "trunc.default", "fix.default", types=NUMBERS)
def _rounding(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    if value.dtype not in FLOATS:
        return emitter.identity(value)
    if "trunc" in call.name or "fix" in call.name:
        return truncated(emitter, value)
    return emitter.unary(call.name.split(".")[1], value)


def truncated(emitter: Emitter, value: Value) -> Value:
    """Rounded towards zero."""
    negative = emitter.with_number("less", value, 0.0)
    return emitter.select(negative, emitter.unary("ceil", value), emitter.unary("floor", value))


@converts("frac.default", types=FLOATS)
def _fraction(emitter: Emitter, call: Call) -> Value:
    return emitter.binary("sub", call.tensor("self"), truncated(emitter, call.tensor("self")))


@converts("sign.default", "sgn.default", types=NUMBERS)
def _sign(emitter: Emitter, call: Call) -> Value:
    """By comparisons: torch's sign of NaN is 0."""
    value = call.tensor("self")
    above = emitter.cast(emitter.with_number("greater", value, 0), value.dtype)
    return emitter.binary("sub", above, emitter.cast(emitter.with_number("less", value, 0), value.dtype))


@converts("isnan.default", "isinf.default")
def _special(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    if value.dtype not in FLOATS:
        return emitter.full(False, "bool", value.shape)
    return emitter.unary(call.name.split(".")[1], value)


@converts("isfinite.default")
def _finite(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    if value.dtype not in FLOATS:
        return emitter.full(True, "bool", value.shape)
    return emitter.invert(emitter.binary("or", emitter.unary("isnan", value), emitter.unary("isinf", value)))


@converts("logical_not.default", "bitwise_not.default")
def _not(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    if value.dtype != "bool":
        if "bitwise" in call.name:
            return emitter.with_number("sub", emitter.unary("neg", value), 1)  # two's complement: -x - 1
        value = truth(emitter, value)
    return emitter.invert(value)


def truth(emitter: Emitter, value: Value) -> Value:
    """Whether an element differs from zero; NaN does."""
    if value.dtype == "bool":
        return value
    return emitter.invert(emitter.with_number("equal", value, 0))


# Activations


@converts("relu.default", "relu6.default", types=NUMBERS)
def _relu(emitter: Emitter, call: Call) -> Value:
    if "relu6" in call.name:
        return clamped(emitter, call.tensor("self"), 0, 6)
    return clamped(emitter, call.tensor("self"), 0, None)


def clamped(emitter: Emitter, value: Value, least: float | None, most: float | None) -> Value:
    """Within bounds; NaN stays NaN."""
    if least is not None and least == 0 and most is None and not emitter.options.propagate_nan:
        return emitter.activation("relu", value)
    if least is not None:
        bound = emitter.scalar(least, value.dtype, value.rank)
        value = emitter.select(emitter.binary("less", value, bound), bound, value)
    if most is not None:
        bound = emitter.scalar(most, value.dtype, value.rank)
        value = emitter.select(emitter.binary("greater", value, bound), bound, value)
    return value


@converts("gelu.default", types=FLOATS)
def _gelu(emitter: Emitter, call: Call) -> Value:
    op = {"none": "gelu_erf", "tanh": "gelu_tanh"}.get(call["approximate"])
    if op is None:
        raise Refused(f"the approximation {call['approximate']!r}")
    return emitter.cast(emitter.activation(op, compute(emitter, call)), call.dtype)


@converts("silu.default", types=FLOATS)
def _silu(emitter: Emitter, call: Call) -> Value:
    value = compute(emitter, call)
    return emitter.cast(emitter.binary("prod", value, emitter.activation("sigmoid", value)), call.dtype)


@converts("leaky_relu.default", types=FLOATS)
def _leaky(emitter: Emitter, call: Call) -> Value:
    value = compute(emitter, call)
    below = emitter.with_number("prod", value, float(call["negative_slope"]))
    return emitter.cast(emitter.select(emitter.with_number("greater", value, 0), value, below), call.dtype)


@converts("elu.default", types=FLOATS)
def _elu(emitter: Emitter, call: Call) -> Value:
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    value = compute(emitter, call)
    if scale == inner == 1.0:
        return emitter.cast(emitter.activation("elu", value, alpha=alpha), call.dtype)
    below = emitter.activation("elu", emitter.with_number("prod", value, inner), alpha=1.0)
    below = emitter.with_number("prod", below, alpha)
    made = emitter.select(emitter.with_number("greater", value, 0.0), value, below)
    return emitter.cast(emitter.with_number("prod", made, scale), call.dtype)


@converts("softplus.default", types=FLOATS)
def _softplus(emitter: Emitter, call: Call) -> Value:
    beta, threshold = float(call["beta"]), float(call["threshold"])
    if beta <= 0:
        raise Refused("with a beta that is not positive")
    value = compute(emitter, call)
    soft = emitter.activation("softplus", value, alpha=1 / beta, beta=beta)
    linear = emitter.binary("greater", emitter.with_number("prod", value, beta), emitter.scalar(threshold, value.dtype))
    return emitter.cast(emitter.select(linear, value, soft), call.dtype)


@converts("hardtanh.default", types=FLOATS)
def _hardtanh(emitter: Emitter, call: Call) -> Value:
    return clamped(emitter, call.tensor("self"), call["min_val"], call["max_val"])


@converts("hardsigmoid.default", "hardswish.default", types=FLOATS)
def _hard(emitter: Emitter, call: Call) -> Value:
    """relu6(x + 3) / 6, and x times that."""
    needs_float(call.tensor("self"))
    value = compute(emitter, call)
    gate = clamped(emitter, emitter.with_number("sum", value, 3.0), 0.0, 6.0)
    if "swish" in call.name:
        gate = emitter.binary("prod", value, gate)
    return emitter.cast(emitter.with_number("div", gate, 6.0), call.dtype)


@converts("logit.default", types=FLOATS)
def _logit(emitter: Emitter, call: Call) -> Value:
    value = compute(emitter, call)
    if call["eps"] is not None:
        value = clamped(emitter, value, float(call["eps"]), 1.0 - float(call["eps"]))
    rest = emitter.binary("sub", emitter.scalar(1.0, value.dtype, value.rank), value)
    return emitter.cast(emitter.unary("log", emitter.binary("div", value, rest)), call.dtype)
