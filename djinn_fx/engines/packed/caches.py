"""Static key/value caches: writing the new rows where they belong, instead of copying the whole cache twice.

AOTAutograd makes of ``cache.index_copy_(...)`` a new tensor that is copied back at the end. Where nobody could tell the
difference the rows are written in place again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.packed.alias import Roots, same_layout
from djinn_fx.srg.graph import fake_value

aten = torch.ops.aten

#: Ops that put something into a copy of their first argument → the same in place. Doing them twice is doing them once.
_IN_PLACE: dict[Any, Any] = {
    aten.index_copy.default: aten.index_copy_.default,
    aten.index_put.default: aten.index_put_.default,
    aten.scatter.src: aten.scatter_.src,
}


def write_caches_in_place(graph: Graph) -> None:
    """Replace an op on an input and the copy back into the input by the op in place.

    The input has memory that no other input shares, and nobody reads it later but through the op. What is written
    does not depend on what was there: a call that fails half way may be made again.
    """
    placeholders = graph.find_nodes(op="placeholder")
    for back in list(graph.find_nodes(op="call_function", target=aten.copy_.default)):
        given: tuple[Any, ...] = tuple(back.args)
        cache, made = given[:2]
        if not isinstance(cache, Node) or not isinstance(made, Node):
            continue
        if made.target not in _IN_PLACE or made.args[0] is not cache:
            continue
        adds = made.target is aten.index_put.default and (len(made.args) > 3 or made.kwargs)
        if adds or back.users or not _is_alone(cache, placeholders) or not _is_free(graph, cache, made, back):
            continue
        with graph.inserting_before(made):
            written = graph.call_function(_IN_PLACE[made.target], made.args, made.kwargs)
        written.meta = dict(made.meta)
        graph.erase_node(back)
        made.replace_all_uses_with(written)
        graph.erase_node(made)


def _is_alone(cache: Node, placeholders: list[Node]) -> bool:
    if cache.op != "placeholder":
        return False
    memory = fake_value(cache).untyped_storage()._cdata
    others = [fake_value(node) for node in placeholders if node is not cache]
    return all(one.untyped_storage()._cdata != memory for one in others if isinstance(one, torch.Tensor))


def _is_free(graph: Graph, cache: Node, made: Node, back: Node) -> bool:
    roots = Roots(graph)
    if made in roots.returned or not same_layout(fake_value(made), fake_value(cache)):
        return False
    order = {node: number for number, node in enumerate(graph.nodes)}
    reads = [node for node in graph.nodes if node.op == "call_function" and node not in (made, back)]
    for node in reads:
        if order[node] > order[made] and any(cache in roots.of(source) for source in node.all_input_nodes):
            return False
    return not any(_depends_on(one, cache, set()) for one in made.all_input_nodes if one is not cache)


def _depends_on(node: Node, cache: Node, seen: set[Node]) -> bool:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one is cache:
            return True
        if one not in seen:
            seen.add(one)
            waiting.extend(one.all_input_nodes)
    return False
