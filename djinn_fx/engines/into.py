"""A graph whose ops write results into memory that is handed in: by the ``out=`` form of the op that makes each one."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Graph, Node

from djinn_fx.srg.graph import fake_value, tensors_of


def write_into(graph: Graph, places: Collection[int]) -> tuple[int, ...]:
    """Change a graph so that these results are written into further arguments, behind the others.

    A result that is a view is written where what it is a view of is made.

    Args:
        graph: returns a tuple; changed.
        places: of results.

    Returns:
        Those of the places for which that can be done, in the order of the further arguments.
    """
    results: Any = graph.output_node().args[0]
    made = {place: node for place in sorted(places) if (node := _maker(graph, results[place])) is not None}
    taken: dict[Node, int] = {}
    for place, node in made.items():
        taken.setdefault(node, place)
    last = list(graph.find_nodes(op="placeholder"))[-1:]
    for node, place in taken.items():
        with graph.inserting_after(last[0]) if last else graph.inserting_before(next(iter(graph.nodes))):
            last = [graph.placeholder(f"into_{place}")]
        form = out_form(node.target)
        assert form is not None, "only nodes whose op has one are makers"
        overload, name = form
        node.target = overload
        node.kwargs = {**node.kwargs, name: last[0]}
    return tuple(taken.values())


def _maker(graph: Graph, result: Any) -> Node | None:
    """The op that makes a result's memory, if it can be told where to."""
    tensors = tensors_of(fake_value(result)) if isinstance(result, Node) else []
    if len(tensors) != 1:
        return None
    key = tensors[0].untyped_storage()._cdata
    for node in graph.nodes:
        mine = tensors_of(fake_value(node)) if node.op != "output" else []
        if any(one.untyped_storage()._cdata == key for one in mine):
            right = len(mine) == 1 and node.op == "call_function" and out_form(node.target) is not None
            return node if right and mine[0].dtype is tensors[0].dtype else None
    return None


@functools.lru_cache(maxsize=4096)
def out_form(target: Any) -> tuple[OpOverload, str] | None:
    """The overload of an op that writes its one result into an argument, and that argument's name.

    None where there is none, or where torch has made one that computes the result elsewhere and copies it.
    """
    if not isinstance(target, OpOverload) or target.namespace != "aten" or target._schema.is_mutable:
        return None
    if len(target._schema.returns) != 1 or target._schema.returns[0].alias_info is not None:
        return None
    wanted = [_told(one) for one in target._schema.arguments]
    for name in target.overloadpacket.overloads():
        other = getattr(target.overloadpacket, name)
        outs = [one for one in other._schema.arguments if one.is_out]
        rest = [_told(one) for one in other._schema.arguments if not one.is_out]
        if len(outs) == 1 and rest == wanted and torch.Tag.generated not in other.tags:
            return other, outs[0].name
    return None


def _told(argument: Any) -> tuple[str, str, bool, str]:
    return argument.name, str(argument.type), argument.kwarg_only, repr(argument.default_value)
