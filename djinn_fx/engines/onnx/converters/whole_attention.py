"""Attention as the one operator that ONNX has for it from opset 23 on, which TensorRT reads as its own layer.

TensorRT has kernels for halves. Where it has none it takes the layer apart, which it may do in float32 only
(:data:`DECOMPOSABLE`), as halves would be rounded after each step. It does not say what a query gets that may see
nothing: these get 0 here, which is what torch gives.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from djinn_fx.engines.onnx.converters.parts import HALVES, either, equal, extreme, less, select
from djinn_fx.engines.onnx.graph import GraphBuilder, Value

#: TensorRT's own attribute of the operator; nobody else knows it.
DECOMPOSABLE = "TRT_decomposable"
#: Nothing is left of a score to which this is added.
_LOWEST = -3e38


def takes(q: Value, k: Value, v: Value, mask: Value | None) -> bool:
    """Whether the operator is for these: four dimensions, one type, values as wide as keys."""
    same = q.rank == k.rank == v.rank == 4 and q.dtype is k.dtype is v.dtype and q.dtype is not torch.float64
    known = q.shape[3] is not None and k.shape[3] == v.shape[3] == q.shape[3]
    batches = {(one.shape[0], one.symbol(0)) for one in (q, k, v)}
    heads = {(one.shape[1], one.symbol(1)) for one in (q, k, v)}
    known = known and (len(heads) == 1 or None not in (q.shape[1], k.shape[1], v.shape[1]))
    fits = mask is None or (1 <= mask.rank <= 4 and _has_kernel(q, mask))
    return same and known and len(batches) == 1 and k.shape[1] == v.shape[1] and fits


def _has_kernel(q: Value, mask: Value | None) -> bool:
    """Whether TensorRT has one kernel for it, or takes the operator apart (tensorrt_rtx 1.7 for sm89).

    It fails to take apart what has a mask that is added, in halves.
    """
    width = q.shape[3] or 0
    return q.dtype not in HALVES or (16 <= width <= 256 and width % 8 == 0) or mask is None or mask.dtype is torch.bool


def node(b: GraphBuilder, q: Value, k: Value, v: Value, mask: Value | None, scale: float, causal: bool) -> Value:
    """``softmax(q @ kT * scale + mask) @ v``.

    Args:
        b: the builder.
        q: [batch, heads, queries, width].
        k: [batch, heads, keys, width].
        v: as k.
        mask: True where a key takes part, or added; broadcasts to [batch, heads, queries, keys].
        scale: of the products.
        causal: query i sees the keys up to i; there are as many of both.
    """
    dtype = q.dtype
    width = q.shape[3] or 0
    inner = dtype if dtype in HALVES and 16 <= width <= 256 and width % 8 == 0 else torch.float32
    q = b.cast(b.op("Mul", [b.cast(q, torch.float32), b.constant(scale, torch.float32)]), inner)
    k, v = b.cast(k, inner), b.cast(v, inner)
    dead = None
    if mask is not None:
        mask = b.unsqueeze(mask, list(range(4 - mask.rank))) if mask.rank < 4 else mask
        mask, dead = _mask(b, mask, inner)
    given: dict[str, Any] = {"is_causal": int(causal), "scale": 1.0}
    if inner is torch.float32:
        given[DECOMPOSABLE] = 1
    made = b.op("Attention", [q, k, v, mask], inner, q.shape, symbols=q.symbols, **given)
    if dead is not None:
        made = b.where(dead, b.constant(0.0, inner), made, made.shape)
        made = Value(made.name, made.dtype, q.shape, q.symbols)
    return b.cast(made, dtype)


def _mask(b: GraphBuilder, mask: Value, dtype: torch.dtype) -> tuple[Value, Value]:
    """The mask, with queries that may see nothing made to see everything, and which queries these are."""
    if mask.dtype is torch.bool:
        dead = b.opposite(extreme(b, "ReduceMax", mask, [3], True))
        return either(b, mask, dead), dead
    wide = b.cast(mask, torch.float32)
    shape = (*mask.shape[:3], 1)
    top = b.op("ReduceMax", [wide, b.ints([3])], None, shape, symbols=(None,) * 4, keepdims=1)
    dead = equal(b, top, -math.inf)
    wide = select(b, dead, 0.0, wide)
    if dtype is torch.float16:
        # A softmax does not change when a row is shifted; the least float16 added to a score would leave its range.
        wide = b.op("Sub", [wide, select(b, dead, 0.0, top)])
    elif dtype is torch.float32:
        # The least number is taken for "not allowed at all" by some, also where it stands in a whole row.
        wide = select(b, less(b, wide, _LOWEST), _LOWEST, wide)
    return b.cast(wide, dtype), dead


__all__ = ["DECOMPOSABLE", "node", "takes"]
