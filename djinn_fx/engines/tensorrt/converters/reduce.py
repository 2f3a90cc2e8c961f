"""Ops that take a dimension away, or run along one."""

from __future__ import annotations

from typing import Any

from djinn_fx.engines.tensorrt.call import Call, axes_of, axis_of, wide
from djinn_fx.engines.tensorrt.conversion import Formula
from djinn_fx.engines.tensorrt.converters.unary import truth
from djinn_fx.engines.tensorrt.emitter import Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, NUMBERS, Refused, converts


def axes(call: Call, value: Value, name: str = "dim") -> list[int]:
    """The axes an op reduces."""
    return axes_of(call[name] if call.has(name) else None, value.rank)


def keeps(call: Call) -> bool:
    """Whether reduced dimensions stay, with size 1."""
    return bool(call["keepdim"]) if call.has("keepdim") else False


def count(emitter: Emitter, value: Value, over: list[int]) -> Formula:
    """How many elements are reduced to one."""
    sizes = [value.shape[axis] for axis in over]
    known = 1
    rest: list[Formula] = []
    for size in sizes:
        if isinstance(size, int):
            known *= size
        else:
            rest.append(size)
    if not rest:
        return known
    return rest[0] if known == 1 and len(rest) == 1 else ["*", *rest, known]


@converts("sum.default", "sum.dim_IntList", "prod.default", "prod.dim_int", results=NUMBERS)
def _total(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), wide(call.dtype))
    op = "prod" if "prod" in call.name else "sum"
    return emitter.cast(emitter.reduce(op, value, axes(call, value), keeps(call)), call.dtype)


@converts("mean.default", "mean.dim", results=FLOATS)
def _mean(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), wide(call.dtype))
    return emitter.cast(emitter.reduce("avg", value, axes(call, value), keeps(call)), call.dtype)


def extreme(emitter: Emitter, op: str, value: Value, over: list[int], keep: bool) -> Value:
    """max or min along axes; NaN if one is NaN."""
    found = emitter.reduce(op, value, over, keep)
    if value.dtype not in FLOATS or not emitter.options.propagate_nan or not over:
        return found
    number = emitter.cast(emitter.unary("isnan", value), "int32")
    broken = truth(emitter, emitter.reduce("max", number, over, keep))
    return emitter.select(broken, emitter.scalar(float("nan"), value.dtype, found.rank), found)


@converts("amax.default", "amin.default", "max.default", "min.default", types=NUMBERS)
def _extreme(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    return extreme(emitter, "max" if "max" in call.name else "min", value, axes(call, value), keeps(call))


def first_of(emitter: Emitter, op: str, value: Value, axis: int, keep: bool) -> tuple[Value, Value]:
    """The largest or smallest along an axis, and the first place that holds it; the first NaN if there is one."""
    found = extreme(emitter, op, value, [axis], True)
    hit = emitter.binary("equal", value, found)
    if value.dtype in FLOATS and emitter.options.propagate_nan:
        hit = emitter.binary("or", hit, emitter.unary("isnan", value))
    size = value.shape[axis]
    places = emitter.iota(size)
    places = emitter.reshape(places, [size if place == axis else 1 for place in range(value.rank)])
    none = emitter.number(size, "int64", value.rank)
    index = emitter.reduce("min", emitter.select(hit, places, none), [axis], keep)
    return (found if keep else emitter.squeeze(found, [axis])), index


@converts("max.dim", "min.dim", types=NUMBERS)
def _extreme_and_place(emitter: Emitter, call: Call) -> Any:
    value = call.tensor("self")
    if value.rank == 0:
        return [value, emitter.scalar(0, "int64")]
    op = "max" if "max" in call.name else "min"
    return list(first_of(emitter, op, value, axis_of(call["dim"], value.rank), keeps(call)))


@converts("argmax.default", "argmin.default", types=NUMBERS)
def _place(emitter: Emitter, call: Call) -> Value:
    value, axis, keep = call.tensor("self"), call["dim"], keeps(call)
    if value.rank == 0:
        return emitter.scalar(0, "int64")
    if axis is None:
        if keep:
            raise Refused("over all dimensions, keeping them")
        size = count(emitter, value, list(range(value.rank)))
        value, axis = emitter.reshape(value, [size]), 0
    op = "max" if "argmax" in call.name else "min"
    return first_of(emitter, op, value, axis_of(axis, value.rank), keep)[1]


@converts("any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _logical(emitter: Emitter, call: Call) -> Value:
    value = truth(emitter, call.tensor("self"))
    over = axes(call, value)
    if not over:
        return emitter.identity(value)
    number = emitter.reduce("max" if "any" in call.name else "min", emitter.cast(value, "int32"), over, keeps(call))
    return truth(emitter, number)


@converts("var.correction", "var_mean.correction", "std.correction", types=FLOATS)
def _variance(emitter: Emitter, call: Call) -> Any:
    value = emitter.cast(call.tensor("self"), wide(call.dtype))
    over, keep = axes(call, value), keeps(call)
    correction = 1 if call["correction"] is None else call["correction"]
    if not over:
        raise Refused("of a single number")
    mean = emitter.reduce("avg", value, over, True)
    away = emitter.binary("sub", value, mean)
    total = emitter.reduce("sum", emitter.binary("prod", away, away), over, keep)
    elements = emitter.number(count(emitter, value, over), value.dtype, total.rank)
    # torch divides by no less than 0.
    divisor = emitter.with_number("max", emitter.with_number("sub", elements, float(correction)), 0.0)
    variance = emitter.binary("div", total, divisor)
    if "std" in call.name:
        variance = emitter.unary("sqrt", variance)
    if "mean" not in call.name:
        return emitter.cast(variance, call.dtype)
    middle = mean if keep else emitter.squeeze(mean, over)
    return [emitter.cast(variance, call.dtype), emitter.cast(middle, call.dtype)]


@converts("linalg_vector_norm.default", types=FLOATS)
def _norm(emitter: Emitter, call: Call) -> Value:
    order = float(call["ord"])
    value = emitter.cast(call.tensor("self"), wide(call.dtype))
    over, keep = axes(call, value), keeps(call)
    if order == 2.0:
        total = emitter.reduce("sum", emitter.binary("prod", value, value), over, keep)
        return emitter.cast(emitter.unary("sqrt", total), call.dtype)
    size = emitter.unary("abs", value)
    if order == 1.0:
        return emitter.cast(emitter.reduce("sum", size, over, keep), call.dtype)
    if abs(order) == float("inf"):
        return emitter.cast(extreme(emitter, "max" if order > 0 else "min", size, over, keep), call.dtype)
    raise Refused(f"of order {order}")


def softmax(emitter: Emitter, value: Value, axis: int) -> Value:
    """A softmax layer; TensorRT wants two dimensions."""
    if value.rank == 1:
        return emitter.squeeze(softmax(emitter, emitter.unsqueeze(value, [0]), 1), [0])
    return emitter.layer("softmax", [value], value.dtype, value.shape, axis=axis)


@converts("_softmax.default", "softmax.int", "_safe_softmax.default", types=FLOATS)
def _softmax(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), "float32")
    if value.rank == 0:
        return emitter.full(1.0, call.dtype, ())
    axis = axis_of(call["dim"], value.rank)
    if "safe" not in call.name:
        return emitter.cast(softmax(emitter, value, axis), call.dtype)
    least = emitter.scalar(float("-inf"), value.dtype, value.rank)
    dead = emitter.binary("equal", emitter.reduce("max", value, [axis], True), least)
    zero = emitter.scalar(0.0, value.dtype, value.rank)
    made = softmax(emitter, emitter.select(dead, zero, value), axis)
    return emitter.cast(emitter.select(dead, zero, made), call.dtype)


@converts("_log_softmax.default", "log_softmax.int", types=FLOATS)
def _log_softmax(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), "float32")
    if value.rank == 0:
        raise Refused("of a single number")
    axis = axis_of(call["dim"], value.rank)
    away = emitter.binary("sub", value, emitter.reduce("max", value, [axis], True))
    total = emitter.reduce("sum", emitter.unary("exp", away), [axis], True)
    return emitter.cast(emitter.binary("sub", away, emitter.unary("log", total)), call.dtype)


@converts("logsumexp.default", types=FLOATS)
def _logsumexp(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), wide(call.dtype))
    over, keep = axes(call, value), keeps(call)
    top = extreme(emitter, "max", value, over, True)
    # An infinite maximum is the answer itself: torch takes 0 for it in the difference.
    base = emitter.select(emitter.unary("isinf", top), emitter.scalar(0.0, top.dtype, top.rank), top)
    total = emitter.reduce("sum", emitter.unary("exp", emitter.binary("sub", value, base)), over, keep)
    if not keep:
        base = emitter.squeeze(base, over)
    return emitter.cast(emitter.binary("sum", emitter.unary("log", total), base), call.dtype)


@converts("cumsum.default", results=NUMBERS)
def _cumsum(emitter: Emitter, call: Call) -> Value:
    value = emitter.cast(call.tensor("self"), wide(call.dtype))
    if value.rank == 0:
        return emitter.cast(value, call.dtype)
    axis = axis_of(call["dim"], value.rank)
    made = emitter.layer("cumulative", [value], value.dtype, value.shape, axis=axis, exclusive=False, reverse=False)
    return emitter.cast(made, call.dtype)


#: TensorRT's limit on how many TopK gives.
_MOST = 3840


def _largest(emitter: Emitter, value: Value, k: int, axis: int, largest: bool) -> tuple[Value, Value]:
    """The k largest or smallest, sorted, with their places. NaN counts as larger than any number."""
    if not 1 <= k <= _MOST:
        raise Refused(f"of {k} elements: TensorRT gives 1 to {_MOST}")
    if axis < value.rank - 4:
        raise Refused("along a dimension that is not one of the last four")
    keys, dtype = value, value.dtype
    if dtype in FLOATS:
        # Infinity makes room for NaN above it as the largest number there is; float32's own largest is halved first.
        keys = emitter.cast(value, "float32")
        if dtype == "float32":
            keys = emitter.with_number("prod", keys, 0.5)
        top = emitter.scalar(3.4028234663852886e38, "float32", value.rank)
        endless = emitter.binary("equal", keys, emitter.scalar(float("inf"), "float32", value.rank))
        keys = emitter.select(endless, top, keys)
        keys = emitter.select(emitter.unary("isnan", keys), emitter.scalar(float("inf"), "float32", value.rank), keys)
    flat = keys.rank == 1
    if flat:  # TensorRT wants two dimensions
        keys, axis = emitter.unsqueeze(keys, [0]), 1
        value = emitter.unsqueeze(value, [0])
    shape = [k if place == axis else size for place, size in enumerate(keys.shape)]
    tensors = [(keys.dtype, shape), ("int64", shape)]
    _, index = emitter.layers("topk", [keys], tensors, op="max" if largest else "min", k=k, axis=axis)
    found = emitter.layer("gather", [value, index], dtype, shape, mode="element", axis=axis, batch=0)
    return (emitter.squeeze(found, [0]), emitter.squeeze(index, [0])) if flat else (found, index)


@converts("topk.default", types=NUMBERS)
def _topk(emitter: Emitter, call: Call) -> Any:
    value, k = call.tensor("self"), call["k"]
    if not isinstance(k, int) or value.rank == 0:
        raise Refused(f"of {k} elements")
    return list(_largest(emitter, value, k, axis_of(call["dim"], value.rank), bool(call["largest"])))


@converts("sort.default", "sort.stable", types=NUMBERS)
def _sort(emitter: Emitter, call: Call) -> Any:
    """Not where equal elements must keep their order: TensorRT does not say which comes first."""
    if call.has("stable") and call["stable"]:
        raise Refused("stable")
    value = call.tensor("self")
    if value.rank == 0:
        raise Refused("of a single number")
    axis = axis_of(call["dim"], value.rank)
    size = value.shape[axis]
    if not isinstance(size, int):
        raise Refused("along a dimension whose size is not known when built")
    return list(_largest(emitter, value, size, axis, bool(call["descending"])))
