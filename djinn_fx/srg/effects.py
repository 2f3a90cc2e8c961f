"""What a graph does besides giving results: which inputs it writes into, and whether it draws random numbers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node


@functools.lru_cache(maxsize=4096)
def written_arguments(target: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments that a call of an operator writes into, by its schema; else nothing."""
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return ()
    arguments = enumerate(target._schema.arguments)
    return tuple(
        (place, one.name) for place, one in arguments if one.alias_info is not None and one.alias_info.is_write
    )


def writes(node: Node) -> bool:
    """Whether a call writes into an argument."""
    return bool(written_arguments(node.target))


def written_nodes(node: Node) -> list[Node]:
    """The nodes whose values a call writes into."""
    found: list[Node] = []
    for place, name in written_arguments(node.target):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(name)
        found += [one for one in (given if isinstance(given, (list, tuple)) else (given,)) if isinstance(one, Node)]
    return found


def written_places(graph: Graph) -> tuple[int, ...]:
    """Places of the inputs that a graph writes into, directly or through a view."""
    written = {_base(one) for node in graph.nodes for one in written_nodes(node)}
    return tuple(place for place, node in enumerate(graph.find_nodes(op="placeholder")) if node in written)


def _base(node: Node) -> Node:
    """What a view is a view of."""
    while isinstance(node.target, OpOverload) and node.target.is_view and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def draws_random_numbers(gm: GraphModule) -> bool:
    """Whether a region draws random numbers: an engine that draws others than eager cannot be compared."""
    return any(is_random(node) for node in gm.graph.nodes)


def is_random(node: Node) -> bool:
    """Whether a node draws random numbers. Attention is tagged so, but draws none without dropout."""
    target = node.target
    if not isinstance(target, OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    for place, argument in enumerate(target._schema.arguments):
        if argument.name == "dropout_p":
            given = (
                node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
            )
            return bool(given != 0.0)
    return True
