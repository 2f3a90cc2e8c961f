"""A captured model with more layers than it was captured with: copies of one layer, put in behind it.

Capturing a thousand layers takes many minutes, and planning is what is to be timed. A copy has weights of its own and
the module path of a layer of its own; its compile-time values are those of the layer that it is a copy of.
"""

from __future__ import annotations

import re
from typing import Any

from torch.fx import Graph, GraphModule, Node

#: The number of a layer in a module's path.
_NUMBER = re.compile(r"(layers(?:\.|\[|\._modules\[')?'?\]?\.?)(\d+)")


def stretched(gm: GraphModule, copies: int) -> GraphModule:
    """The model with so many more layers, each as its second one.

    Args:
        gm: a model of at least three layers, whose ops have module paths with a number for each layer.
        copies: how many.

    Raises:
        ValueError: its layers are not to be told apart, or the first two differ.
    """
    layers = [[node for node in gm.graph.nodes if _layer_of(node) == number] for number in (0, 1)]
    if not layers[1] or [one.target for one in layers[0]] != [one.target for one in layers[1]]:
        raise ValueError("the first two layers differ, or modules have no numbers")
    made = Graph()
    new: dict[Node, Node] = {}
    weights = _placeholders(gm, made, layers[1], copies, new)
    before = dict(zip(layers[0], layers[1], strict=True))  # who of the second layer stands where one of the first does
    last = layers[1][-1]
    for node in gm.graph.nodes:
        if node.op != "placeholder":
            new[node] = _copied(made, node, new, 0)
        if node is last:
            _put_in(made, layers[1], before, weights, copies, new)
    return GraphModule(gm, made)


def _layer_of(node: Node) -> int | None:
    if node.op != "call_function":
        return None
    stack = node.meta.get("nn_module_stack")
    match = _NUMBER.search(str(next(reversed(stack.values()))[0])) if stack else None
    return int(match[2]) if match else None


def _placeholders(
    gm: GraphModule, made: Graph, layer: list[Node], copies: int, new: dict[Node, Node]
) -> list[dict[Node, Node]]:
    """The graph's inputs, and for each copy inputs in the place of those that only its layer reads."""
    inside = set(layer)
    own = [node for node in gm.graph.nodes if node.op == "placeholder" and node.users and inside.issuperset(node.users)]
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            new[node] = _copied(made, node, new, 0)
    found = []
    for number in range(1, copies + 1):
        mine = {node: made.placeholder(f"{node.target}_copy{number}") for node in own}
        for node, other in mine.items():
            other.meta = dict(node.meta)
        found.append(mine)
    return found


def _put_in(
    made: Graph,
    layer: list[Node],
    before: dict[Node, Node],
    weights: list[dict[Node, Node]],
    copies: int,
    new: dict[Node, Node],
) -> None:
    """The copies, each reading what the one before it made; what follows reads the last."""
    latest = {node: new[node] for node in layer}
    for number in range(1, copies + 1):
        # What the layer reads of the first one, a copy reads of the one before it.
        reads = {**new, **{first: latest[second] for first, second in before.items()}, **weights[number - 1]}
        for node in layer:
            reads[node] = _copied(made, node, reads, number)
        latest = {node: reads[node] for node in layer}
    new.update(latest)


def _copied(made: Graph, node: Node, new: dict[Node, Node], further: int) -> Node:
    one = made.node_copy(node, lambda other: new[other])
    one.meta = {key: value for key, value in node.meta.items() if key != "srg"}
    stack = node.meta.get("nn_module_stack")
    if stack and further:
        one.meta["nn_module_stack"] = {key: _renamed(entry, further) for key, entry in stack.items()}
    return one


def _renamed(entry: Any, further: int) -> Any:
    """A module's path with the number of a layer that is so many further, far behind all there are."""
    path = _NUMBER.sub(lambda match: f"{match[1]}{100_000 + further}", str(entry[0]))
    return (path, *entry[1:])
