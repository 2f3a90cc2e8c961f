"""What a graph does besides giving results: who writes, which values share memory, who draws random numbers."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

if TYPE_CHECKING:
    from djinn_fx.srg.graph import SRG


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


def storages_of(srg: SRG) -> dict[Node, tuple[int, ...]]:
    """The storage behind each tensor of each node's value, in the order of the record's outputs.

    A view always shares its base's storage, and an unpacked value its producer's, also where the fake values do
    not say so (those of a graph read from a file each have a storage of their own).
    """
    parent: dict[int, int] = {}

    def find(storage: int) -> int:
        while (above := parent.get(storage, storage)) != storage:
            storage = above
        return storage

    records = [(node, srg.record(node)) for node in srg.nodes]
    for node, record in records:
        unpacked = node.target is operator.getitem
        if not (record.is_view or unpacked) or not record.outputs:
            continue
        bases = [find(meta.storage) for source in node.all_input_nodes for meta in srg.record(source).outputs]
        mine = {find(meta.storage) for meta in record.outputs}
        if not bases or not mine.isdisjoint(bases):
            continue
        index = node.args[1] if unpacked else 0
        base = bases[index] if isinstance(index, int) and index < len(bases) else bases[0]
        parent.update(dict.fromkeys(mine, base))
    found = {node: tuple([meta.storage for meta in record.outputs]) for node, record in records}
    return {node: tuple(map(find, mine)) for node, mine in found.items()} if parent else found


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
