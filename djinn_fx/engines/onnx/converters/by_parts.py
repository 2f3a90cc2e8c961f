"""Ops that are done by their parts (``decompose.py``), and what these need of the whole's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.kernels import wide
from djinn_fx.engines.onnx.needs import calm, needs, within
from djinn_fx.engines.onnx.registry import Refused, converts


@converts("aten.binary_cross_entropy.default")
def _binary_cross_entropy(b: GraphBuilder, node: Node, x: Value, target: Value, *_: Any, **__: Any) -> Value:
    """torch raises where a probability is none."""
    for one in (x, target):
        if one.is_float:
            within(b, b.cast(one, wide(b, one.dtype)), 0.0, 1.0)
    raise Refused("done by its parts")


@converts(
    "aten._softmax_backward_data.default",
    "aten._log_softmax_backward_data.default",
    "aten._native_batch_norm_legit.default",
    "aten._native_batch_norm_legit.no_stats",
    "aten._native_batch_norm_legit_functional.default",
    "aten._batch_norm_with_update_functional.default",
    "aten.native_layer_norm_backward.default",
    "aten.native_group_norm_backward.default",
    "aten.linalg_cross.default",
)
@needs(calm)
def _with_sums(b: GraphBuilder, node: Node, *_: Any, **__: Any) -> Value:
    """Their order of additions shows in numbers that are not finite."""
    raise Refused("done by its parts")


@converts("aten.max_unpool2d.default", "aten.max_unpool3d.default")
def _max_unpool(
    b: GraphBuilder, node: Node, x: Value, indices: Value, output_size: Sequence[int | Value], *_: Any
) -> Value:
    """torch raises where an index is not within the plane that is filled."""
    if not all(isinstance(size, int) for size in output_size):
        raise Refused("of sizes that are not known before the call")
    b.require_within(indices, 0, math.prod(size for size in output_size if isinstance(size, int)) - 1)
    raise Refused("done by its parts")
