"""Attention. Whatever device a graph was traced for, its fused attention becomes the one layer.

TensorRT does not scale, and does not say what a row gives that may look at nothing: such rows are set to 0 here, which
is what torch gives.
"""

from __future__ import annotations

import math
from typing import Any

from djinn_fx.engines.tensorrt.call import Call
from djinn_fx.engines.tensorrt.converters.matmul import product, scaled
from djinn_fx.engines.tensorrt.converters.reduce import softmax
from djinn_fx.engines.tensorrt.converters.unary import truth
from djinn_fx.engines.tensorrt.emitter import HALVES, Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, Refused, converts

_FORMS = (
    "_scaled_dot_product_flash_attention_for_cpu.default",
    "_scaled_dot_product_flash_attention.default",
    "_scaled_dot_product_efficient_attention.default",
    "_scaled_dot_product_cudnn_attention.default",
    "_scaled_dot_product_fused_attention_overrideable.default",
)


@converts(*_FORMS, unused=frozenset(range(1, 9)))
def _fused(emitter: Emitter, call: Call) -> Any:
    mask = next((call[name] for name in ("attn_mask", "attn_bias") if call.has(name)), None)
    made = attention(emitter, call, mask)
    return [made] + [None] * (len(call.results) - 1)


@converts("scaled_dot_product_attention.default")
def _plain(emitter: Emitter, call: Call) -> Value:
    return attention(emitter, call, call["attn_mask"])


def attention(emitter: Emitter, call: Call, mask: Value | None) -> Value:
    """Softmax of the scaled products of queries and keys, times the values."""
    q, k, v = (call[name] for name in ("query", "key", "value"))
    if q.rank != 4 or k.rank != 4 or v.rank != 4:
        raise Refused("of something else than four dimensions")
    if q.dtype not in FLOATS or len({q.dtype, k.dtype, v.dtype}) > 1:
        raise Refused(f"of {q.dtype}, {k.dtype} and {v.dtype}")
    if call.has("dropout_p") and call["dropout_p"] != 0:
        raise Refused("with dropout")
    for name in ("return_debug_mask", "compute_log_sumexp"):
        if call.has(name) and call[name] and call.read(1):
            raise Refused(f"with {name}")
    if k.shape[3] != v.shape[3]:
        raise Refused("with values of another size than keys")
    size = q.shape[3]
    if not isinstance(size, int):
        raise Refused("with heads of a size that is not known when built")
    causal = bool(call["is_causal"]) if call.has("is_causal") else False
    if causal and mask is not None:
        raise Refused("both causal and with a mask")
    if q.shape[1] != k.shape[1]:
        k, v = (_as_many_heads(emitter, one, q) for one in (k, v))
    if q.shape[0] != k.shape[0] or k.shape[0] != v.shape[0] or k.shape[1] != v.shape[1]:
        raise Refused("with batches or heads to be broadcast")
    scale = call["scale"]
    q = scaled(emitter, q, 1 / math.sqrt(size) if scale is None else scale)
    kind = "upper_left" if causal else "none"
    shape = (*q.shape[:3], v.shape[3])
    if mask is None:
        return emitter.layer("attention", [q, k, v], q.dtype, shape, causal=kind, decomposable=True)
    apart = mask.dtype != "bool" and q.dtype in HALVES and not _has_kernel(size)
    mask, dead = _mask(emitter, emitter.with_rank(mask, 4), "float32" if apart else q.dtype)
    if apart:
        made = _taken_apart(emitter, q, k, v, mask)
    else:
        made = emitter.layer("attention", [q, k, v, mask], q.dtype, shape, causal="none", decomposable=True)
    return emitter.select(dead, emitter.scalar(0.0, made.dtype, 4), made)


def _has_kernel(size: int) -> bool:
    """Whether TensorRT has one kernel for half-precision heads of this size (tried on tensorrt_rtx 1.7 for sm89).

    Without one it takes the layer apart, and then fails on a mask that is added.
    """
    return 16 <= size <= 256 and size % 8 == 0


def _taken_apart(emitter: Emitter, q: Value, k: Value, v: Value, mask: Value) -> Value:
    """Attention step by step in float32."""
    dtype = q.dtype
    q, k, v = (emitter.cast(one, "float32") for one in (q, k, v))
    scores = emitter.binary("sum", product(emitter, q, emitter.permute(k, [0, 1, 3, 2])), mask)
    return emitter.cast(product(emitter, softmax(emitter, scores, 3), v), dtype)


def _as_many_heads(emitter: Emitter, value: Value, q: Value) -> Value:
    """Each head repeated for the queries it serves."""
    batch, heads, length, size = value.shape
    if not isinstance(heads, int) or not isinstance(q.shape[1], int) or q.shape[1] % heads:
        raise Refused(f"of {q.shape[1]} heads of queries on {heads} of keys")
    apart = emitter.unsqueeze(value, [2])
    wider = emitter.broadcast(apart, [batch, heads, q.shape[1] // heads, length, size])
    return emitter.reshape(wider, [batch, q.shape[1], length, size])


def _mask(emitter: Emitter, mask: Value, dtype: str) -> tuple[Value, Value]:
    """The mask, with rows that allow nothing made to allow everything, and which rows these are."""
    if mask.dtype == "bool":
        allowed = emitter.cast(mask, "int32")
        dead = emitter.invert(truth(emitter, emitter.reduce("max", allowed, [3], True)))
        return emitter.binary("or", mask, dead), dead
    if mask.dtype not in FLOATS:
        raise Refused(f"with a mask of {mask.dtype}")
    wide = emitter.cast(mask, "float32")
    top = emitter.reduce("max", wide, [3], True)
    dead = emitter.binary("equal", top, emitter.scalar(float("-inf"), "float32", 4))
    wide = emitter.select(dead, emitter.scalar(0.0, "float32", 4), wide)
    if dtype == "float16":
        # Softmax does not change when a row is shifted; the least float16 added to a score would leave its range.
        shift = emitter.select(dead, emitter.scalar(0.0, "float32", 4), top)
        wide = emitter.binary("sub", wide, shift)
    return emitter.cast(wide, dtype), dead
