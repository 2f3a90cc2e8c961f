"""Scaled dot-product attention in the forms that ATen has for it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm_where_cheap
from djinn_fx.engines.onnx.converters import whole_attention
from djinn_fx.engines.onnx.converters.normalization import by_name, other_results, reads
from djinn_fx.engines.onnx.graph import DJINN, MICROSOFT, GraphBuilder, Number, Refused, Value
from djinn_fx.engines.onnx.kernels import compare, select
from djinn_fx.engines.onnx.registry import converts


@converts(
    "aten.scaled_dot_product_attention.default",
    "aten._scaled_dot_product_attention_math.default",
    "aten._scaled_dot_product_attention_math_for_mps.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "aten._scaled_dot_product_fused_attention_overrideable.default",
)
def any_form(b: GraphBuilder, node: Node, *args: Any, **kwargs: Any) -> Any:
    """As the user wrote it, and in the forms that it has for a processor and for GPUs."""
    given, others = by_name(node, args, kwargs), other_results(node)
    if any(reads(node, output + 1) for output in range(others)) or given.get("return_debug_mask"):
        raise Refused("more than the result is read")
    if given.get("dropout_mask") is not None:
        raise Refused("a dropout mask is given")
    mask = given.get("attn_bias", given.get("attn_mask"))
    dropout, causal = given.get("dropout_p", 0.0), bool(given.get("is_causal", False))
    result = attention(b, given["query"], given["key"], given["value"], mask, dropout, causal, given.get("scale"))
    return (result, *[None] * others) if others else result


def attention(
    b: GraphBuilder,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None,
    dropout: Number,
    causal: bool,
    scale: Number | None,
) -> Value:
    """``softmax(q @ kᵀ * scale + mask) @ v``; a query that no key is allowed for gets zeros, as in torch.

    Args:
        b: the builder.
        q: [..., heads, queries, width].
        k: [..., key heads, keys, width]; the heads are a multiple of the key heads.
        v: [..., key heads, keys, value width].
        mask: added to the scores, or True where a key takes part; broadcasts to [..., heads, queries, keys].
        dropout: must be 0.
        causal: query i sees the keys up to i.
        scale: None for ``1 / sqrt(width)``.
    """
    if dropout != 0:
        raise Refused("dropout is random")
    width = q.shape[-1]
    if scale is None and width is None:
        raise Refused("the width of the heads differs from call to call")
    factor = 1.0 / math.sqrt(width) if scale is None and width else float(scale or 0.0)
    if b.flavour == "tensorrt" and whole_attention.takes(q, k, v, mask):
        if causal and mask is not None:
            raise Refused("a mask and causality at once")
        k, v = (_repeated(b, one, q) for one in (k, v))
        hides = causal and not _as_many(q, k)
        return whole_attention.node(b, q, k, v, _triangle(b, q, k) if hides else mask, factor, causal and not hides)
    inner = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    k, v = (_repeated(b, one, q) for one in (k, v))
    q32, k32, v32 = (b.cast(one, inner) for one in (q, k, v))
    if not _is_step(q, k):
        # Of one step of a decoder the keys are many more than there is to compute with them.
        calm_where_cheap(b, *(b.before_transpose(one) for one in (q, k, v)))
    bias, some = _bias(b, mask, q, k, causal, inner)
    if b.flavour == "openvino":
        out = _openvino(b, q32, k32, v32, bias, factor, causal and bias is None)
    elif inner is torch.float32 and q.rank == k.rank == v.rank == 4 and None not in (q.shape[1], width, v.shape[-1]):
        return b.cast(_multi_head(b, q32, k32, v32, bias, some, factor), q.dtype)
    else:
        out = _products(b, q32, k32, v32, bias, factor)
    if some is not None:
        out = select(b, some, out, b.constant(0.0, inner))
    return b.cast(out, q.dtype)


def _as_many(q: Value, k: Value) -> bool:
    """Whether there are as many keys as queries, whatever their number."""
    one, other = (value.shape[-2] if value.shape[-2] is not None else value.symbol(value.rank - 2) for value in (q, k))
    return one is not None and one == other


def _is_step(q: Value, k: Value) -> bool:
    """Whether a few queries meet many keys."""
    queries, keys = q.shape[-2], k.shape[-2]
    return queries is None or (keys is None and queries < 8) or (keys is not None and keys > 4 * queries)


def _repeated(b: GraphBuilder, value: Value, q: Value) -> Value:
    """Keys or values with as many heads as the queries have: each repeated in place."""
    if value.rank < 3 or value.shape[-3] == q.shape[-3]:
        return value
    mine, wanted = value.shape[-3], q.shape[-3]
    if mine is None or wanted is None or wanted % mine:
        raise Refused("heads that differ from call to call")
    if value.rank != 4:
        raise Refused("grouped heads in other than four dimensions")
    sizes = b.sizes(value)
    spread = b.expand(b.unsqueeze(value, [2]), [sizes[0], mine, wanted // mine, sizes[2], sizes[3]])
    return b.reshape(spread, [sizes[0], wanted, sizes[2], sizes[3]])


def _bias(
    b: GraphBuilder, mask: Value | None, q: Value, k: Value, causal: bool, dtype: torch.dtype
) -> tuple[Value | None, Value | None]:
    """What is added to the scores, and for which queries any key is allowed (None: for all)."""
    low, zero = b.constant(-math.inf, dtype), b.constant(0.0, dtype)
    if causal:
        if mask is not None:
            raise Refused("a mask and causality at once")
        if b.flavour == "openvino":
            return None, None
        return select(b, _triangle(b, q, k), zero, low), None
    if mask is None:
        return None, None
    if not mask.shape:
        raise Refused("a mask of one number")
    shape = (*mask.shape[:-1], 1)
    symbols = (*(mask.symbol(dim) for dim in range(mask.rank - 1)), None)
    if mask.dtype is torch.bool:
        highest = b.op("ReduceMax", [b.cast(mask, torch.int32), b.ints([-1])], None, shape, symbols=symbols, keepdims=1)
        some = b.cast(highest, torch.bool)
        # A query without keys gets no mask, so that its softmax is a number; its answer is then replaced by zeros.
        allowed = b.op("Or", [mask, b.op("Not", [some])], torch.bool)
        return select(b, allowed, zero, low), some
    added = b.cast(mask, dtype)
    # Not by way of the highest number: OpenVINO's ReduceMax makes -inf the lowest finite one.
    allowed = b.cast(b.op("Not", [compare(b, "Equal", added, low)]), torch.int32)
    some = b.cast(b.op("ReduceMax", [allowed, b.ints([-1])], None, shape, symbols=symbols, keepdims=1), torch.bool)
    return select(b, some, added, zero), some


def _triangle(b: GraphBuilder, q: Value, k: Value) -> Value:
    """Where query i sees key j: ``j <= i`` [queries, keys]."""
    zero, one = b.constant(0, torch.int64), b.constant(1, torch.int64)
    ranges = []
    for value in (q, k):
        size = b.size(value, value.rank - 2)
        if isinstance(size, int):
            ranges.append(b.constant(list(range(size)), torch.int64))
        else:
            ranges.append(b.op("Range", [zero, size, one], torch.int64, (None,), symbols=(size.formula,)))
    return compare(b, "LessOrEqual", b.unsqueeze(ranges[1], [0]), b.unsqueeze(ranges[0], [1]))


def _products(b: GraphBuilder, q: Value, k: Value, v: Value, bias: Value | None, scale: float) -> Value:
    order = [*range(k.rank - 2), k.rank - 1, k.rank - 2]
    shape = (*q.shape[:-1], k.shape[-2])
    scores = b.op("MatMul", [q, b.transpose(k, order)], None, shape, symbols=(None,) * len(shape))
    if scale != 1:
        scores = b.op("Mul", [scores, b.constant(scale, q.dtype)])
    if bias is not None:
        scores = b.op("Add", [scores, bias])
    weights = b.op("Softmax", [scores], axis=-1)
    return b.op("MatMul", [weights, v], None, (*q.shape[:-1], v.shape[-1]))


_HEADS_FIRST = [0, 2, 1, 3]


def _multi_head(
    b: GraphBuilder, q: Value, k: Value, v: Value, bias: Value | None, some: Value | None, scale: float
) -> Value:
    """onnxruntime's own operator: a tenth to a quarter faster than products and softmax.

    It takes queries as [batch, queries, heads * width], and keys and values likewise or with the heads first.
    """
    batch, queries = b.size(q, 0), b.size(q, 2)
    heads, width, value_width = q.shape[1], q.shape[3], v.shape[3]
    assert heads is not None
    assert width is not None
    assert value_width is not None
    inputs = [b.reshape(b.transpose(q, _HEADS_FIRST), [batch, queries, heads * width])]
    for one, size in ((k, width), (v, value_width)):
        if b.is_transposed(k, _HEADS_FIRST) and b.is_transposed(v, _HEADS_FIRST):
            one = b.reshape(b.transpose(one, _HEADS_FIRST), [b.size(one, 0), b.size(one, 2), heads * size])
        inputs.append(one)
    inputs += [None, None, None if bias is None else _whole_bias(b, bias, q, k)]  # type: ignore[list-item]
    shape = (q.shape[0], q.shape[2], heads * value_width)
    symbols = (q.symbol(0), q.symbol(2), None)
    out = b.op("MultiHeadAttention", inputs, None, shape, MICROSOFT, symbols, num_heads=heads, scale=float(scale))
    out = b.reshape(out, [batch, queries, heads, value_width])
    if some is not None:
        some = b.unsqueeze(some, list(range(4 - some.rank))) if some.rank < 4 else some
        out = select(b, b.transpose(some, _HEADS_FIRST), out, b.constant(0.0, out.dtype))
    return b.transpose(out, _HEADS_FIRST)


def _whole_bias(b: GraphBuilder, bias: Value, q: Value, k: Value) -> Value:
    """A bias with its last two sizes in full, as the operator wants it."""
    value = b.unsqueeze(bias, list(range(4 - bias.rank))) if bias.rank < 4 else bias
    sizes = [b.size(value, 0), b.size(value, 1), b.size(q, 2), b.size(k, 2)]
    wanted = tuple(b.known(size) for size in sizes)
    same = [q.symbol(2), k.symbol(2)] == [value.symbol(2), value.symbol(3)]
    if value.shape == wanted and (None not in wanted[2:] or same):
        return value
    return b.expand(value, sizes)


def _openvino(b: GraphBuilder, q: Value, k: Value, v: Value, bias: Value | None, scale: float, causal: bool) -> Value:
    width = q.shape[-1]
    usual = width is not None and math.isclose(scale, 1.0 / math.sqrt(width), rel_tol=1e-12)
    given = [] if usual else [bias, b.constant(scale, q.dtype)]
    if not usual and bias is None and width is not None:
        # OpenVINO takes a scale only beside a mask.
        q = b.op("Mul", [q, b.constant(scale * math.sqrt(width), q.dtype)])
        given = []
    shape = (*q.shape[:-1], v.shape[-1])
    inputs = [q, k, v, *(given or [bias])]
    return b.op("ScaledDotProductAttention", inputs, None, shape, domain=DJINN, causal=int(causal))
