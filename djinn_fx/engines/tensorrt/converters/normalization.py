"""Normalization by mean and variance, computed in float32 as torch does."""

from __future__ import annotations

import math
from typing import Any

from djinn_fx.engines.tensorrt.call import Call
from djinn_fx.engines.tensorrt.emitter import Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, Refused, converts


def _factor(emitter: Emitter, given: Value | None, default: float, shape: list[Any]) -> Value:
    """A scale or bias in float32 and of this shape; sizes of 1 where it is the same for all."""
    if given is None:
        return emitter.scalar(default, "float32", len(shape))
    return emitter.reshape(emitter.cast(given, "float32"), shape)


@converts("native_layer_norm.default", "layer_norm.default", types=FLOATS)
def _layer_norm(emitter: Emitter, call: Call) -> Any:
    value, epsilon = emitter.cast(call.tensor("input"), "float32"), float(call["eps"])
    if epsilon < 0:
        raise Refused("with a negative epsilon")
    count = len(call["normalized_shape"])
    axes = list(range(value.rank - count, value.rank))
    shape = [1] * (value.rank - count) + list(value.shape[value.rank - count :])
    scale, bias = (_factor(emitter, call[name], d, shape) for name, d in (("weight", 1.0), ("bias", 0.0)))
    # Scale and bias must have one shape.
    if scale.shape != bias.shape:
        scale, bias = emitter.broadcast(scale, shape), emitter.broadcast(bias, shape)
    made = emitter.layer("normalization", [value, scale, bias], "float32", value.shape, axes=axes, epsilon=epsilon)
    made = emitter.cast(made, call.dtype)
    if "native" not in call.name:
        return made
    mean = rstd = None
    if call.read(1) or call.read(2):
        kinds = [str(one.dtype).removeprefix("torch.") for one in call.results[1:]]
        wide_mean, wide_rstd = _statistics(emitter, value, axes, epsilon)
        mean, rstd = emitter.cast(wide_mean, kinds[0]), emitter.cast(wide_rstd, kinds[1])
    return [made, mean, rstd]


def _statistics(emitter: Emitter, value: Value, axes: list[int], epsilon: float) -> tuple[Value, Value]:
    """Mean and one over the standard deviation, reduced dimensions kept."""
    mean = emitter.reduce("avg", value, axes, True)
    away = emitter.binary("sub", value, mean)
    variance = emitter.reduce("avg", emitter.binary("prod", away, away), axes, True)
    root = emitter.unary("sqrt", emitter.with_number("sum", variance, epsilon))
    return mean, emitter.unary("recip", root)


@converts("native_group_norm.default", types=FLOATS)
def _group_norm(emitter: Emitter, call: Call) -> Any:
    """Groups as a dimension of their own, so that no layer's idea of a group is relied on."""
    if call.read(1) or call.read(2):
        raise Refused("its mean or deviation is read")
    value, groups = emitter.cast(call.tensor("input"), "float32"), call["group"]
    channels = value.shape[1]
    if not isinstance(channels, int) or value.rank < 2:
        raise Refused("with a number of channels that is not known when built")
    if value.rank + 1 > 8:
        raise Refused("of eight dimensions")
    apart = emitter.reshape(value, [value.shape[0], groups, channels // groups, *value.shape[2:]])
    axes = list(range(2, apart.rank))
    mean, rstd = _statistics(emitter, apart, axes, float(call["eps"]))
    made = emitter.binary("prod", emitter.binary("sub", apart, mean), rstd)
    made = emitter.reshape(made, value.shape)
    each = [1, channels, *([1] * (value.rank - 2))]
    if call["weight"] is not None:
        made = emitter.binary("prod", made, _factor(emitter, call["weight"], 1.0, each))
    if call["bias"] is not None:
        made = emitter.binary("sum", made, _factor(emitter, call["bias"], 0.0, each))
    return [emitter.cast(made, call.dtype), None, None]


@converts(
    "_native_batch_norm_legit_no_training.default", "native_batch_norm.default", "cudnn_batch_norm.default",
    "_batch_norm_no_update.default", types=FLOATS, unused=frozenset({1, 2, 3}),
)  # fmt: skip
def _batch_norm(emitter: Emitter, call: Call) -> Any:
    """With running statistics: one factor and one addend a channel."""
    if call.has("training") and call["training"]:
        raise Refused("in training mode")
    value = emitter.cast(call.tensor("input"), "float32")
    mean, variance = call["running_mean"], call["running_var"]
    if mean is None or variance is None or value.rank < 2:
        raise Refused("without running statistics")
    epsilon = call["eps"] if call.has("eps") else call["epsilon"]
    each = [1, value.shape[1], *([1] * (value.rank - 2))]
    root = emitter.unary("sqrt", emitter.with_number("sum", _factor(emitter, variance, 1.0, each), float(epsilon)))
    scale = emitter.unary("recip", root)
    if call["weight"] is not None:
        scale = emitter.binary("prod", scale, _factor(emitter, call["weight"], 1.0, each))
    away = emitter.binary("sub", value, _factor(emitter, mean, 0.0, each))
    made = emitter.binary("prod", away, scale)
    if call["bias"] is not None:
        made = emitter.binary("sum", made, _factor(emitter, call["bias"], 0.0, each))
    return [emitter.cast(made, call.dtype)] + [None] * (len(call.results) - 1)


@converts("_fused_rms_norm.default", "rms_norm.default", types=FLOATS)
def _rms_norm(emitter: Emitter, call: Call) -> Any:
    value, epsilon = emitter.cast(call.tensor("input"), "float32"), call["eps"]
    if epsilon is None:  # torch takes that of the type it computes in
        epsilon = math.ldexp(1.0, -23)
    count = len(call["normalized_shape"])
    axes = list(range(value.rank - count, value.rank))
    square = emitter.reduce("avg", emitter.binary("prod", value, value), axes, True)
    root = emitter.unary("sqrt", emitter.with_number("sum", square, float(epsilon)))
    rstd = emitter.unary("recip", root)
    made = emitter.binary("prod", value, rstd)
    if call["weight"] is not None:
        made = emitter.binary("prod", made, emitter.cast(call["weight"], "float32"))
    made = emitter.cast(made, call.dtype)
    return [made, rstd] if "fused" in call.name else made
