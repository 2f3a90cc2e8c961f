"""Operations of a region written out in others, so that Inductor's kernels compute what torch's do for all numbers."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from djinn_fx.srg.graph import fake_value, fakes_of

aten = torch.ops.aten
prims = torch.ops.prims

_HALF = (torch.float16, torch.bfloat16)
#: Torch rounds a number to the half precision of the tensor beside it; Inductor reckons with the number itself.
ROUNDING = frozenset(f"aten.{name}" for name in "add sub rsub fmod lt le gt ge eq ne".split())
#: Where a call of a normalisation has its epsilon, and whether it takes the mean and variance it is given.
_NORMS = {"aten._native_batch_norm_legit_no_training": (6, None), "aten.native_batch_norm": (7, 5)}


def rounded_number(node: Node) -> bool:
    """Round a number beside a tensor of half precision as torch does; whether there was one."""
    others = [fake_value(one) for one in node.args[:2] if isinstance(one, Node)]
    if len(others) != 1 or getattr(others[0], "dtype", None) not in _HALF:
        return False
    (place,) = (place for place, one in enumerate(node.args[:2]) if not isinstance(one, Node))
    number = node.args[place]
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    near = float(torch.tensor(float(number), dtype=torch.float64).to(others[0].dtype))
    if near == number:
        return False
    node.update_arg(place, near)
    return True


def batch_norm(gm: GraphModule, name: str, node: Node) -> bool:
    """Write out a normalisation by given means as torch does: a product and a sum by channel. Only if it is dense."""
    if name not in _NORMS or not _norm_is_dense(fake_value(node.args[0])):  # type: ignore[arg-type]
        return False
    eps, training = _NORMS[name]
    users = list(node.users)
    if len(node.args) <= eps or (training is not None and node.args[training]) or node.args[3] is None:
        return False
    if not all(user.target is operator.getitem and user.args[1] == 0 for user in users):
        return False
    x, weight, bias, mean, variance = node.args[:5]
    value = fake_value(x)  # type: ignore[arg-type]
    wide = torch.float64 if value.dtype is torch.float64 else torch.float32
    with gm.graph.inserting_before(node):
        x, weight, bias, mean, variance = (
            one if one is None else _as(gm, one, wide) for one in (x, weight, bias, mean, variance)
        )
        spread = _call(gm, aten.sqrt.default, _call(gm, aten.add.Tensor, variance, node.args[eps]))
        alpha = _call(gm, aten.reciprocal.default, spread)
        if weight is not None:
            alpha = _call(gm, aten.mul.Tensor, alpha, weight)
        beta = _call(gm, aten.mul.Tensor, mean, alpha)
        beta = _call(gm, aten.neg.default, beta) if bias is None else _call(gm, aten.sub.Tensor, bias, beta)
        column = [-1, *[1] * (value.dim() - 2)]
        alpha, beta = (_call(gm, aten.reshape.default, one, column) for one in (alpha, beta))
        made = _call(gm, aten.add.Tensor, _call(gm, aten.mul.Tensor, x, alpha), beta)
        made = _as(gm, made, value.dtype)
    for user in users:
        user.replace_all_uses_with(made)
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)
    return True


def _norm_is_dense(value: Any) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    dense = value.is_contiguous()
    if not dense and value.dim() in formats:
        dense = value.is_contiguous(memory_format=formats[value.dim()])
    return bool(dense)


def _as(gm: GraphModule, node: Any, dtype: torch.dtype) -> Node:
    if fake_value(node).dtype is dtype:
        return node  # type: ignore[no-any-return]
    return _call(gm, prims.convert_element_type.default, node, dtype)


def plus_zero(gm: GraphModule, node: Node) -> None:
    users = list(node.users)
    with gm.graph.inserting_after(node):
        made = _call(gm, aten.add.Scalar, node, 0.0)
    for user in users:
        user.replace_input_with(node, made)


def gelu(gm: GraphModule, node: Node) -> bool:
    """Write out what oneDNN computes, where torch leaves a gelu to it: NaN of infinity, infinity of 3e38."""
    x: Any = node.args[0]
    value = fake_value(x)
    approximate = node.kwargs.get("approximate", "none") != "none"
    if approximate or not _by_onednn(value):
        return False
    with gm.graph.inserting_before(node):
        wide = (
            x
            if value.dtype is torch.float32
            else _call(gm, torch.ops.prims.convert_element_type.default, x, torch.float32)
        )
        scaled = _call(gm, aten.mul.Tensor, wide, math.sqrt(0.5))
        share = _call(gm, aten.add.Tensor, _call(gm, aten.erf.default, scaled), 1.0)
        product = _call(gm, aten.mul.Tensor, _call(gm, aten.mul.Tensor, wide, share), 0.5)
        made = _call(gm, aten.sub.Tensor, product, _call(gm, aten.sub.Tensor, wide, wide))  # less 0, or less NaN
        if wide is not x:
            made = _call(gm, torch.ops.prims.convert_element_type.default, made, value.dtype)
    node.replace_all_uses_with(made)
    gm.graph.erase_node(node)
    return True


def _by_onednn(value: Any) -> bool:
    """Whether torch gives an elementwise function of a tensor to oneDNN."""
    switched_on: Any = torch.backends.mkldnn.enabled
    if not torch.backends.mkldnn.is_available() or not switched_on or not value.is_contiguous():
        return False
    taken = value.dtype is torch.float32 or (
        value.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return taken and not (type(value.numel()) is int and value.numel() < 2)


def compared(gm: GraphModule, name: str, node: Node) -> bool:
    """Write bounds, one of which is 0, as comparisons."""
    low, high = ends(name, node)
    zero = any(isinstance(end, (int, float)) and end == 0 for end in (low, high))
    if not zero or not all(end is None or isinstance(end, (int, float)) for end in (low, high)):
        return False
    with gm.graph.inserting_before(node):
        value: Any = node.args[0]
        for end, beyond in ((low, aten.lt.Scalar), (high, aten.gt.Scalar)):
            if end is not None:
                outside = _call(gm, beyond, value, end)
                value = _call(gm, aten.masked_fill.Scalar, value, outside, end)
    node.replace_all_uses_with(value)
    gm.graph.erase_node(node)
    return True


def ends(name: str, node: Node) -> tuple[Any, Any]:
    """Between which ends a call brings its operand."""
    names = {"aten.hardtanh": ("min_val", "max_val"), "aten.clamp_max": ("max",)}.get(name, ("min", "max"))
    ends: dict[str, Any] = {"min_val": -1, "max_val": 1, "min": None, "max": None}
    ends.update(zip(names, node.args[1:], strict=False))
    ends.update(node.kwargs)
    return (ends["min_val"], ends["max_val"]) if name == "aten.hardtanh" else (ends["min"], ends["max"])


def _call(gm: GraphModule, target: Any, *args: Any) -> Node:
    node = gm.graph.call_function(target, args)
    fakes = fakes_of(args)
    with fakes[0].fake_mode:
        node.meta["val"] = target(*fakes)
    return node
