"""Order along a dimension: the k largest, sorted elements, and running extremes and products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import plain_zeros
from djinn_fx.engines.onnx.converters.binary import log_of_sum
from djinn_fx.engines.onnx.converters.normalization import reads
from djinn_fx.engines.onnx.converters.parts import (
    along,
    anywhere,
    axis,
    binary,
    both,
    either,
    equal,
    first_place,
    iota,
    isnan,
    less,
    select,
    wide,
)
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.registry import Refused, converts, result_dtype
from djinn_fx.srg.lower import target_name


def _keys(b: GraphBuilder, x: Value) -> Value:
    """Numbers in the same order, with NaN above all as torch has it: the runtimes' TopK has no place for NaN.

    Infinity makes room for NaN: it counts as the largest finite number.
    """
    if x.dtype is torch.bool:
        return b.cast(x, torch.int32)
    if not x.is_float:
        return x
    keys = b.cast(x, wide(x.dtype))
    if b.flavour == "tensorrt" and x.dtype is torch.float32:  # so that the largest number itself is below it
        keys = binary(b, "Mul", keys, 0.5)
    keys = select(b, equal(b, keys, math.inf), torch.finfo(keys.dtype).max, keys)
    return select(b, isnan(b, keys), math.inf, keys)


#: Of so many elements TensorRT's TopK gives.
_MOST_TENSORRT = 3840


def _ordered(b: GraphBuilder, x: Value, k: int | Value, at: int, largest: bool) -> tuple[Value, Value, Value]:
    """The k largest or smallest along a dimension in order, and their places; in front of them the numbers by which
    they are in order (:func:`_keys`).
    """
    keys = _keys(b, x)
    if b.flavour == "tensorrt" and (not isinstance(k, int) or k > _MOST_TENSORRT or at < x.rank - 4):
        raise Refused(f"of more than {_MOST_TENSORRT} elements, or not along one of the last four dimensions")
    shape = [b.known(k) if place == at else size for place, size in enumerate(x.shape)]
    best, places = b.ops(
        "TopK",
        [keys, b.ints([k])],
        [(keys.dtype, shape), (torch.int64, shape)],
        axis=at,
        largest=int(largest),
        sorted=1,
    )
    return best, b.op("GatherElements", [x, places], x.dtype, shape, axis=at), places


@converts("aten.topk.default")
def _topk(
    b: GraphBuilder, node: Node, x: Value, k: int | Value, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    """Where elements are equal torch does not say whose place it gives: so of floats only, where that is rare."""
    if not x.is_float and b.flavour != "tensorrt":
        raise Refused(f"of {x.dtype}: which of equal elements is chosen is not torch's choice")
    if not x.rank or 0 in x.shape or k == 0:
        raise Refused("of a single number, or of none")
    at = axis(dim, x.rank)
    count = b.size(x, at)
    if isinstance(k, int) and isinstance(count, int):
        some: int | Value = min(k + 1, count)
    else:
        one_more = binary(b, "Add", b.tensor(k, torch.int64), 1)
        some = b.op("Min", [one_more, b.tensor(count, torch.int64)], torch.int64, ())
    best, found, places = _ordered(b, x, some, at, largest)
    if b.flavour != "tensorrt" or reads(node, 1):
        _distinct(b, best, at)
    known = b.known(k)
    return b.slice(found, at, 0, k, size=known), b.slice(places, at, 0, k, size=known)


def _distinct(b: GraphBuilder, ordered: Value, at: int) -> None:
    """Require that neighbours differ: whose place it is where they do not is torch's choice."""
    size = ordered.shape[at]
    if size is not None and size < 2:
        return
    last = b.size(ordered, at)
    end = last - 1 if isinstance(last, int) else binary(b, "Sub", last, 1)
    fewer = None if size is None else size - 1
    first, second = b.slice(ordered, at, 0, end, size=fewer), b.slice(ordered, at, 1, last, size=fewer)
    b.require(either(b, less(b, first, second), less(b, second, first)), of_floats=True)


def _nearby(b: GraphBuilder, found: Value, at: int, k: int) -> None:
    """The same of the k-th in order and those beside it."""
    last = b.size(found, at)
    end = min(k + 1, last) if isinstance(last, int) else k + 1
    start = max(k - 2, 0)
    size = end - start if isinstance(last, int) else None
    _distinct(b, b.slice(found, at, start, end, size=size), at)


def _returned(node: Node, output: int) -> bool:
    """Whether an output of a node is a result of the region, as it is or copied."""
    waiting = [after for user in node.users if user.args[1:] == (output,) for after in user.users]
    while waiting:
        one = waiting.pop()
        if one.op == "output":
            return True
        if target_name(one.target) in _COPIES:
            waiting += one.users
    return False


_COPIES = ("aten.clone.default", "aten._to_copy.default", "aten.view.default", "aten.squeeze.dim", "aten.alias.default")


@converts("aten.sort.default", "aten.sort.stable")
def _sort(
    b: GraphBuilder,
    node: Node,
    x: Value,
    dim: int = -1,
    descending: bool = False,
    *,
    stable: bool | None = None,
) -> tuple[Value, Value]:
    """ONNX Runtime keeps equal elements in their order, OpenVINO does not.

    Where torch need not keep it either, any order is right, and what comes of it (a mixture of experts sorts tokens by
    expert, and back) does not depend on it; but the order itself is not returned where equal elements are likely.
    """
    placed = any(user.args[1:] == (1,) for user in node.users)
    if placed and stable and b.flavour == "openvino":
        raise Refused("OpenVINO does not keep equal elements in their order")
    owned = placed and not stable and x.dtype is not torch.float32 and _returned(node, 1)
    if owned and b.flavour != "tensorrt":
        raise Refused(f"of {x.dtype}: the order of equal elements is torch's own affair")
    if not x.rank or 0 in x.shape:
        raise Refused("of a single number, or of none")
    at = axis(dim, x.rank)
    plain_zeros(b, x)  # they are equal to others
    best, found, places = _ordered(b, x, b.size(x, at), at, descending)
    if b.flavour == "tensorrt" and (owned or (placed and stable)):
        _distinct(b, best, at)
    return found, places


@converts("aten.kthvalue.default")
def _kth(b: GraphBuilder, node: Node, x: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, Value]:
    if not x.is_float or not x.rank:
        raise Refused("of integers: which of equal elements is chosen is not torch's choice")
    at = axis(dim, x.rank)
    count = x.shape[at]
    some: int | Value = b.size(x, at) if count is None else min(k + 1, count)
    best, found, places = _ordered(b, x, some, at, False)
    _nearby(b, best, at, k)
    found, places = (b.slice(one, at, k - 1, k, size=1) for one in (found, places))
    return (found, places) if keepdim else (b.squeeze(found, [at]), b.squeeze(places, [at]))


@converts("aten.median.dim")
def _median(b: GraphBuilder, node: Node, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    """The lower of the two in the middle, or the first NaN."""
    if not x.rank:
        return x, b.constant(0, torch.int64)
    at = axis(dim, x.rank)
    size = x.shape[at]
    if not x.is_float or not size:
        raise Refused("of integers, or of a number of elements that is not known before the call")
    k = (size + 1) // 2
    best, found, places = _ordered(b, x, min(k + 1, size), at, False)
    _nearby(b, best, at, k)
    found, places = (b.slice(one, at, k - 1, k, size=1) for one in (found, places))
    broken = isnan(b, x)
    any_broken = anywhere(b, broken, [at], True)
    found = select(b, any_broken, math.nan, found)
    places = select(b, any_broken, first_place(b, broken, at, True), places)
    return (found, places) if keepdim else (b.squeeze(found, [at]), b.squeeze(places, [at]))


# Running results, in as many steps as the size has binary digits

#: Longer dimensions are not unrolled.
_LONGEST = 4096


def _running(b: GraphBuilder, x: Value, at: int, join: Callable[[Value, Value], Value], neutral: float) -> Value:
    """Each element joined with all before it."""
    size = _steps_along(x, at)
    step = 1
    while step < size:
        held = b.slice(x, at, 0, size - step, size=size - step)
        sizes = [step if place == at else one for place, one in enumerate(b.sizes(x))]
        front = b.expand(b.constant(neutral, x.dtype), sizes)
        x = join(b.concat([front, held], at), x)
        step *= 2
    return x


def _steps_along(x: Value, at: int) -> int:
    size = x.shape[at]
    if size is None or size > _LONGEST:
        raise Refused(f"along a dimension of more than {_LONGEST} elements, or of a size that is not known")
    return size


@converts("aten.cumprod.default")
def _cumprod(b: GraphBuilder, node: Node, x: Value, dim: int, *, dtype: torch.dtype | None = None) -> Value:
    value = b.cast(x, wide(result_dtype(node)))
    if value.rank:
        value = _running(b, value, axis(dim, x.rank), lambda old, new: binary(b, "Mul", old, new), 1)
    return b.cast(value, result_dtype(node))


@converts("aten.logcumsumexp.default")
def _logcumsumexp(b: GraphBuilder, node: Node, x: Value, dim: int) -> Value:
    value = b.cast(x, wide(result_dtype(node)))
    if value.rank:
        value = _running(b, value, axis(dim, x.rank), lambda old, new: log_of_sum(b, old, new), -math.inf)
    return b.cast(value, result_dtype(node))


@converts("aten.cummax.default", "aten.cummin.default")
def _running_extreme(b: GraphBuilder, node: Node, x: Value, dim: int) -> tuple[Value, Value]:
    """The last place where there are several; NaN stays from where it is met."""
    if not x.rank:
        return x, b.constant(0, torch.int64)
    at = axis(dim, x.rank)
    size, most = _steps_along(x, at), "max" in str(node.target)
    keys = b.cast(x, torch.int32) if x.dtype is torch.bool else x
    places = b.expand(along(b, iota(b, size), at, x.rank), b.sizes(x))
    step = 1
    while step < size:
        held, where = (b.slice(one, at, 0, size - step, size=size - step) for one in (keys, places))
        rest = [b.slice(one, at, step, size, size=size - step) for one in (keys, places)]
        keeps = less(b, rest[0], held) if most else less(b, held, rest[0])
        if x.is_float:
            keeps = either(b, keeps, both(b, isnan(b, held), b.opposite(isnan(b, rest[0]))))
        made = [select(b, keeps, old, new) for old, new in ((held, rest[0]), (where, rest[1]))]
        keys, places = (
            b.concat([b.slice(one, at, 0, step, size=step), new], at)
            for one, new in zip((keys, places), made, strict=True)
        )
        step *= 2
    return b.cast(keys, x.dtype), places
