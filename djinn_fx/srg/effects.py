"""What a graph does besides giving results: which inputs it writes into, and whether it draws random numbers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node


def written_places(gm: GraphModule) -> tuple[int, ...]:
    """Places of the inputs that a graph writes into, directly or through a view."""
    places = {node: place for place, node in enumerate(gm.graph.find_nodes(op="placeholder"))}
    found: set[int] = set()
    for node in gm.graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        for place in _written_arguments(node.target):
            given = node.args[place] if place < len(node.args) else None
            found.update(places[one] for one in map(_base, _nodes(given)) if one in places)
    return tuple(sorted(found))


@functools.lru_cache(maxsize=4096)
def _written_arguments(target: OpOverload) -> tuple[int, ...]:
    arguments = enumerate(target._schema.arguments)
    return tuple(place for place, one in arguments if one.alias_info is not None and one.alias_info.is_write)


def _nodes(value: Any) -> list[Node]:
    if isinstance(value, (list, tuple)):
        return [one for one in value if isinstance(one, Node)]
    return [value] if isinstance(value, Node) else []


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
