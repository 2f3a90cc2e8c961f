"""Tensors made of numbers, besides the common ones."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.converters.parts import equal, iota
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.registry import Refused, converts, result_dtype, sizes_of

#: Numbers that a constant may hold.
_MOST = 65536


@converts("aten.eye.default", "aten.eye.m")
def _eye(b: GraphBuilder, node: Node, *sizes: int | Value, **rest: Any) -> Value:
    rows, columns = sizes_of(b, node)
    hit = equal(b, b.unsqueeze(iota(b, rows), [1]), b.unsqueeze(iota(b, columns), [0]))
    return b.cast(hit, result_dtype(node))


@converts("aten.linspace.default", "aten.logspace.default")
def _linspace(b: GraphBuilder, node: Node, start: Any, end: Any, steps: Any, *base: Any, **rest: Any) -> Value:
    """Of known numbers: torch's own, as a constant."""
    given = (start, end, steps, *base)
    if not all(isinstance(one, (int, float)) for one in given) or steps > _MOST:
        raise Refused("of numbers that are not known before the call")
    make = torch.linspace if "linspace" in str(node.target) else torch.logspace
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        return b.constant(make(*given, dtype=result_dtype(node)), result_dtype(node))


@converts("aten.tril_indices.default", "aten.triu_indices.default")
def _indices(b: GraphBuilder, node: Node, row: Any, col: Any, offset: Any = 0, **rest: Any) -> Value:
    if not all(isinstance(one, int) for one in (row, col, offset)) or row * col > _MOST:
        raise Refused("of numbers that are not known before the call")
    make = torch.tril_indices if "tril" in str(node.target) else torch.triu_indices
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        return b.constant(make(row, col, offset, dtype=result_dtype(node)), result_dtype(node))
