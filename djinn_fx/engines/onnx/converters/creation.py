"""Tensors made of numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.graph import GraphBuilder, Number, Refused, Tensorlike, Value
from djinn_fx.engines.onnx.kernels import arithmetic
from djinn_fx.engines.onnx.registry import converts, fake, result_dtype, sizes_of


def _filled(b: GraphBuilder, node: Node, value: Tensorlike, *sources: Value) -> Value:
    return b.expand(b.tensor(value, result_dtype(node)), sizes_of(b, node, *sources))


@converts("aten.full.default", "aten.new_full.default", "aten.full_like.default")
def full(b: GraphBuilder, node: Node, first: Any, second: Any, third: Any = None, **_: Any) -> Value:
    """``full(size, value)``, ``new_full(x, size, value)``, ``full_like(x, value)``."""
    if "new_full" in str(node.target):
        return _filled(b, node, third, first)
    return _filled(b, node, second, *([first] if isinstance(first, Value) else []))


@converts("aten.zeros.default", "aten.new_zeros.default", "aten.zeros_like.default")
def zeros(b: GraphBuilder, node: Node, first: Any, *_: Any, **__: Any) -> Value:
    return _filled(b, node, 0, *([first] if isinstance(first, Value) else []))


@converts("aten.ones.default", "aten.new_ones.default", "aten.ones_like.default")
def ones(b: GraphBuilder, node: Node, first: Any, *_: Any, **__: Any) -> Value:
    return _filled(b, node, 1, *([first] if isinstance(first, Value) else []))


@converts("aten.scalar_tensor.default")
def scalar_tensor(b: GraphBuilder, node: Node, value: Tensorlike, **_: Any) -> Value:
    return b.tensor(value, result_dtype(node))


@converts("aten.arange.default", "aten.arange.start", "aten.arange.start_step", "prims.iota.default")
def arange(b: GraphBuilder, node: Node, *given: Number | Value, **named: Any) -> Value:
    dtype = result_dtype(node)
    if "iota" in str(node.target):
        start, step = named.get("start", 0), named.get("step", 1)
    else:
        start = given[0] if len(given) > 1 else 0
        step = given[2] if len(given) > 2 else named.get("step", 1)
    (count,) = sizes_of(b, node)
    plain = not isinstance(start, Value) and not isinstance(step, Value)
    if plain and isinstance(count, int):
        if "iota" in str(node.target):
            numbers = [start + step * place for place in range(count)]
            return b.constant(torch.tensor(numbers, dtype=dtype), dtype)
        return b.constant(torch.arange(*given, dtype=dtype), dtype)  # type: ignore[arg-type]
    if (not plain and dtype.is_floating_point) or (plain and (start != int(start) or step != int(step))):
        raise Refused("a range of fractions whose length differs from call to call")
    zero, one = b.constant(0, torch.int64), b.constant(1, torch.int64)
    symbols = (count.formula if isinstance(count, Value) else None,)
    value = b.op("Range", [zero, b.tensor(count, torch.int64), one], torch.int64, (b.known(count),), symbols=symbols)
    if isinstance(step, Value) or step != 1:
        value = arithmetic(b, "Mul", [value, b.tensor(step, torch.int64)], torch.int64)
    if isinstance(start, Value) or start != 0:
        value = arithmetic(b, "Add", [value, b.tensor(start, torch.int64)], torch.int64)
    return b.cast(value, dtype)


@converts("aten.new_empty_strided.default", "aten.empty_permuted.default")
def empty_elsewhere(b: GraphBuilder, node: Node, *_: Any, **__: Any) -> Value:
    if b.flavour != "tensorrt":
        raise Refused("it gives whatever memory holds")
    return _filled(b, node, 0)


@converts("aten.empty.memory_format", "aten.new_empty.default", "aten.empty_like.default", "aten.empty_strided.default")
def empty(b: GraphBuilder, node: Node, first: Any = None, *_: Any, **__: Any) -> Value:
    """What it holds is anybody's guess; TensorRT's are never compared with what memory held before."""
    if b.flavour != "tensorrt" and any(size != 0 for size in fake(node).shape[:1]) and not _is_overwritten(node):
        raise Refused("it gives whatever memory holds")
    return _filled(b, node, 0, *([first] if isinstance(first, Value) else []))


def _is_overwritten(node: Node) -> bool:
    """Whether nothing but the sizes of an empty tensor is read: each reader fills it with something."""
    fills = ("aten.fill.Scalar", "aten.fill.Tensor", "aten.copy.default", "aten.full_like.default")
    return all(str(user.target) in fills and user.args[0] is node for user in node.users)


@converts("aten.fill.Scalar", "aten.fill.Tensor")
def fill(b: GraphBuilder, node: Node, x: Value, value: Tensorlike) -> Value:
    return _filled(b, node, value, x)
