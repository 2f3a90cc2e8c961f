"""Why nothing of a region is packed, in the words of what the region has."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.alias import is_empty
from djinn_fx.engines.packed.graph import constants
from djinn_fx.srg.graph import fake_value

aten = torch.ops.aten

_NOTHING = "the region has no product and no convolution with a weight"


def why_nothing_is_packed(gm: GraphModule, weights: tuple[int, ...]) -> str:
    """About the first product or convolution with a weight, or that there is none.

    Args:
        gm: the region, in which the packed engine found nothing to do.
        weights: places of the inputs that keep their values from call to call.
    """
    kept = constants(gm.graph, weights)
    told = (_told(node, kept) for node in gm.graph.nodes if node.op == "call_function" and node not in kept)
    return next((why for why in told if why is not None), _NOTHING)


def _told(node: Node, kept: frozenset[Node]) -> str | None:
    if node.target is aten.convolution.default:
        return _of_convolution(node) if node.args[1] in kept else None
    if node.target in (aten.mm.default, aten.addmm.default):
        right: Any = node.args[-1]
        return _of_product(node, right) if right in kept else None
    return None


def _of_convolution(node: Node) -> str:
    weight = fake_value(node.args[1])  # type: ignore[arg-type]
    if node.args[6]:
        return "transposed convolutions are not packed"
    if weight.dim() != 4:
        return f"its convolution is {weight.dim() - 2}-dimensional: only two-dimensional ones are packed"
    return _of_type(node) or "its convolution has a bias, sizes or a layout that is not packed"


def _of_product(node: Node, right: Node) -> str:
    if is_empty(fake_value(right)):
        return "its product with a weight has no elements"
    return _of_type(node) or "its product has a bias or types that are not packed"


def _of_type(node: Node) -> str | None:
    dtype = fake_value(node).dtype
    name = str(dtype).removeprefix("torch.")
    return None if dtype in packed_ops.ONEDNN_TYPES else f"products and convolutions of {name} are not packed"
