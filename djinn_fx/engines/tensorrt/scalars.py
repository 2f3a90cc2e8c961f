"""Single float64 numbers: Dynamo hands over a Python number that may differ from call to call as such a tensor.

TensorRT has no float64. Where such a number, or what is made of it, is used as float32 only, it may be float32 from
the start: the caller rounds it. What may be made of it on the way are operations that keep a relative error small.
"""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from djinn_fx.srg.graph import fake_value
from djinn_fx.srg.lower import target_name

_CONVERSIONS = ("prims.convert_element_type.default", "aten._to_copy.default")

#: None of them lets an error of half a unit in the last place grow to more than two.
_STEADY = (
    "aten.mul.Tensor",
    "aten.mul.Scalar",
    "aten.div.Tensor",
    "aten.div.Scalar",
    "aten.true_divide.Tensor",
    "aten.sqrt.default",
    "aten.rsqrt.default",
    "aten.reciprocal.default",
    "aten.neg.default",
    "aten.scalar_tensor.default",
)

#: How many of them may come one after the other.
_MOST = 4


def numbers_to_narrow(graph: Graph) -> frozenset[Node]:
    """The nodes that are one float64 number and may be a float32 one."""
    found: set[Node] = set()
    depth: dict[Node, int] = {}
    for node in graph.nodes:
        if not _is_number(node):
            continue
        name = target_name(node.target) if node.op == "call_function" else ""
        if node.op == "placeholder":
            depth[node] = 0
        elif name in (*_CONVERSIONS, *_STEADY):
            before = [depth.get(source, _MOST) if _is_number(source) else 0 for source in node.all_input_nodes]
            depth[node] = max(before, default=0) + (name in _STEADY)
        if depth.get(node, _MOST + 1) <= _MOST:
            found.add(node)
    # Whatever is read as something else than float32 stays float64, with all it is made of and that is made of it.
    changed = True
    while changed:
        changed = False
        for node in list(found):
            sources = [one for one in node.all_input_nodes if _is_number(one)]
            if any(source not in found for source in sources) or not all(_fits(user, found) for user in node.users):
                found.discard(node)
                changed = True
    return frozenset(found)


def _is_number(node: Node) -> bool:
    value = fake_value(node)
    return isinstance(value, torch.Tensor) and value.dtype is torch.float64 and value.dim() == 0


def _fits(user: Node, found: set[Node]) -> bool:
    if user in found:
        return True
    value = fake_value(user)
    return (
        user.op == "call_function"
        and target_name(user.target) in _CONVERSIONS
        and isinstance(value, torch.Tensor)
        and value.dtype is torch.float32
    )
