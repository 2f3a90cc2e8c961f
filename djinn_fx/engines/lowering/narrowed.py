"""Single float64 numbers of a graph as float32 ones, for engines that have no float64.

Dynamo hands over a Python number that may differ from call to call (an attention's scale with ``dynamic=True``) as a
tensor of one float64 element, which the graph rounds before it computes with it.
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
MOST = 4


def narrowed(graph: Graph, most: int = MOST) -> Graph:
    """The graph with single float64 numbers as float32 ones where they, or what is made of them, end as float32.

    Who calls rounds them.

    Args:
        graph: it is left as it is.
        most: how many operations with such a number may come one after the other. None: what is made of it is torch's
            float32 to the bit. More: it may differ in the last places, and where a number between leaves float32.
    """
    numbers = _numbers_to_narrow(graph, most)
    if not numbers:
        return graph
    made = Graph(graph.owning_module)
    copies: dict[Node, Node] = {}
    made.output(made.graph_copy(graph, copies))
    for node in numbers:
        fake = fake_value(node)
        with fake.fake_mode:
            copies[node].meta = {**node.meta, "val": fake.to(torch.float32)}
    return made


def _numbers_to_narrow(graph: Graph, most: int) -> frozenset[Node]:
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
            before = [depth.get(one, most) if _is_number(one) else _rounds(one) for one in node.all_input_nodes]
            depth[node] = max(before, default=0) + (name in _STEADY)
        if depth.get(node, most + 1) <= most:
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


def _rounds(source: Node) -> int:
    """1 for what a float64 may not hold as it is: a large whole number is rounded there, and once more to float32."""
    value = fake_value(source)
    return int(not (isinstance(value, torch.Tensor) and value.is_floating_point()))


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
