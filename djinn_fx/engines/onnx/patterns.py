"""Ops that models write out of smaller ones, found again where a runtime has them whole.

A match replaces the value of its last op; the ops before it are converted too, and left out of the model if nothing
else reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.converters.normalization import rms_norm_of
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.srg.graph import fake_value
from djinn_fx.srg.lower import target_name


def found(b: GraphBuilder, values: Mapping[Node, Any], node: Node) -> Value | None:
    """The node's value, if it ends a pattern that is known; None for any other node.

    Args:
        b: the builder.
        values: of the nodes before it.
        node: a call.
    """
    name = target_name(node.target)
    return rms_norm(b, values, node) if name == "aten.mul.Tensor" else None


def _is(node: Any, *names: str) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and target_name(node.target) in names


def rms_norm(b: GraphBuilder, values: Mapping[Node, Any], node: Node) -> Value | None:
    """``weight * (x * rsqrt(mean(x², -1) + eps))`` or without the weight, in float32."""
    first, second = node.args[:2]
    for inner, other in ((first, second), (second, first)):
        core = _core(inner) if isinstance(inner, Node) and len(inner.users) == 1 else None
        if core is not None and isinstance(other, Node) and _is_weight(other, core[2]):
            return rms_norm_of(b, values[core[0]], values[other], core[2], core[1])
    core = _core(node)
    if core is None or any(_takes_weight(node, user, core[2]) for user in node.users):
        return None
    return rms_norm_of(b, values[core[0]], None, core[2], core[1])


def _is_weight(node: Node, size: int) -> bool:
    value = fake_value(node)
    return isinstance(value, torch.Tensor) and value.dtype is torch.float32 and tuple(value.shape) == (size,)


def _takes_weight(node: Node, user: Node, size: int) -> bool:
    if not _is(user, "aten.mul.Tensor") or len(node.users) != 1:
        return False
    others = [one for one in user.args[:2] if one is not node]
    return len(others) == 1 and isinstance(others[0], Node) and _is_weight(others[0], size)


def _core(node: Node) -> tuple[Node, float, int] | None:
    """Of ``x * rsqrt(mean(x², -1) + eps)``: x, eps, and the size of the last dimension."""
    if not _is(node, "aten.mul.Tensor"):
        return None
    for x, root in (node.args[:2], reversed(node.args[:2])):
        if not isinstance(x, Node) or not _is(root, "aten.rsqrt.default"):
            continue
        eps = _mean_of_squares(root.args[0], x)  # type: ignore[union-attr]
        value = fake_value(x)
        if eps is None or not isinstance(value, torch.Tensor) or value.dtype is not torch.float32 or value.dim() < 2:
            continue
        size = value.shape[-1]
        if isinstance(size, int) and size > 0:
            return x, eps, size
    return None


def _mean_of_squares(added: Any, x: Node) -> float | None:
    """The eps of ``mean(x², -1, keepdim) + eps``."""
    if not _is(added, "aten.add.Tensor", "aten.add.Scalar") or added.kwargs:
        return None
    mean, eps = added.args[:2]
    if not _is(mean, "aten.mean.dim") or not isinstance(eps, float) or mean.kwargs:
        return None
    square, dims, *keep = mean.args
    if list(dims) not in ([-1], [fake_value(x).dim() - 1]) or keep != [True]:
        return None
    if _is(square, "aten.pow.Tensor_Scalar"):
        return eps if square.args[0] is x and square.args[1] == 2 else None
    if _is(square, "aten.mul.Tensor"):
        return eps if square.args[0] is x and square.args[1] is x else None
    return None
