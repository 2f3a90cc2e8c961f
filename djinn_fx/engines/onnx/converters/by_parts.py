"""Ops that are done by their parts (``decompose.py``), and what these need of the whole's numbers."""

from __future__ import annotations

import functools
from typing import Any

from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import LIVELY, calm, needs, within
from djinn_fx.engines.onnx.converters.normalization import check_batch
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.kernels import wide
from djinn_fx.engines.onnx.registry import Refused, converts
from djinn_fx.engines.onnx.values import RefusedWhole


@converts("aten.binary_cross_entropy.default")
def _binary_cross_entropy(b: GraphBuilder, node: Node, x: Value, target: Value, *_: Any, **__: Any) -> Value:
    """torch raises where a probability is none."""
    for one in (x, target):
        if one.is_float:
            within(b, b.cast(one, wide(b, one.dtype)), 0.0, 1.0)
    raise Refused("done by its parts")


@converts("aten._softmax_backward_data.default", "aten._log_softmax_backward_data.default")
@needs(functools.partial(calm, least=LIVELY))
def _softmax_backward(b: GraphBuilder, node: Node, *_: Any, **__: Any) -> Value:
    """The sign of its zeros depends on the order, too."""
    raise Refused("done by its parts")


@converts(
    "aten.binary_cross_entropy_with_logits.default",
    "aten.native_layer_norm_backward.default",
    "aten.native_group_norm_backward.default",
)
@needs(calm)
def _with_sums(b: GraphBuilder, node: Node, *_: Any, **__: Any) -> Value:
    """Their order of additions shows in numbers that are not finite."""
    raise Refused("done by its parts")


@converts(
    "aten._native_batch_norm_legit.default",
    "aten._native_batch_norm_legit.no_stats",
    "aten._native_batch_norm_legit_functional.default",
    "aten._batch_norm_with_update_functional.default",
)
def _batch_norm(b: GraphBuilder, node: Node, *args: Any, **kwargs: Any) -> Value:
    given = [one for one in (*args, *kwargs.values()) if isinstance(one, Value) and one.is_float]
    check_batch(b, *given)
    raise Refused("done by its parts")


@converts("aten.linalg_cross.default")
def _cross(b: GraphBuilder, node: Node, *_: Any, **__: Any) -> Value:
    if b.flavour == "tensorrt":
        raise Refused("done by its parts")
    raise RefusedWhole("torch rounds one of the two products only together with the difference")


@converts("aten.native_dropout_backward.default")
def _dropout_backward(b: GraphBuilder, node: Node, gradient: Value, *_: Any) -> Value:
    if not gradient.is_float and b.flavour != "tensorrt":
        raise RefusedWhole("of whole numbers")  # which have no -0, as torch multiplies by the mask
    raise Refused("done by its parts")
