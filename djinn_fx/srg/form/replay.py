"""A canonical form as a graph that runs: what a saved function calls where no engine's artefact is.

Unlike :mod:`djinn_fx.srg.form.rebuild` this computes no fake values, so it takes microseconds an op; that nothing was
lost is proved when the form is saved, by comparing what comes out with the region itself (:func:`first_loss`).

A form is data from elsewhere: names in it are looked up, in torch's table of operators or in short lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.srg.form.targets import UnknownTarget, find_operator, find_target, takes_tuples

_TORCH_NAMES: dict[str, Any] = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format))
}
_FLOAT = re.compile(r"-?(inf|nan|0x[01]\.[0-9a-f]+p[+-]\d+)")


class CannotReplay(Exception):
    """A form of which no graph can be made here; the message says why."""


def replay(form: Mapping[str, Any], devices: Mapping[str, str]) -> GraphModule:
    """The graph of a region's canonical form: placeholders, ops, a tuple of outputs.

    Args:
        form: as :func:`djinn_fx.srg.form.hashing.canonical_form` makes it, or read back from JSON.
        devices: which device each numbered one of the form is: ``{"cuda#0": "cuda:1"}``.

    Raises:
        CannotReplay: an op that is not known here, or a value that cannot be written down.
    """
    try:
        return _Replayer(devices).graph(form, ["list", *(["%", number] for number in form["outputs"])])
    except CannotReplay:
        raise
    except UnknownTarget as error:
        raise CannotReplay(str(error)) from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        # A form is data: whatever is wrong with it ends here.
        raise CannotReplay(f"{type(error).__name__}: {str(error)[:300]}") from error


class _Replayer:
    def __init__(self, devices: Mapping[str, str]) -> None:
        self._devices = devices

    def graph(self, form: Mapping[str, Any], outputs: Any) -> GraphModule:
        graph, bodies = Graph(), dict[str, GraphModule]()
        nodes = [graph.placeholder(f"in_{number}") for number in range(len(form["inputs"]))]

        def literal(value: Any, tuples: bool) -> Any:
            if value is None or type(value) in (str, int):
                return value
            kind, *parts = value
            if kind == "%":
                return _at(nodes, parts[0])
            if kind == "list":
                items = [literal(part, tuples) for part in parts]
                return tuple(items) if tuples else items
            if kind == "dict":
                return {str(key): literal(part, tuples) for key, part in parts}
            if kind == "slice":
                return slice(*(literal(part, tuples) for part in parts))
            if kind == "graph":
                name = f"body_{len(bodies)}"
                bodies[name] = self.graph(parts[0], parts[0]["outputs"])
                return graph.get_attr(name)
            return self._leaf(kind, parts[0])

        for name, args, kwargs, _ in form["ops"]:
            target = find_target(name)
            tuples = takes_tuples(target)
            given, named = tuple(literal(part, tuples) for part in args[1:]), literal(kwargs, tuples)
            nodes.append(graph.call_function(target, given, named))
        graph.output(literal(outputs, True))
        return GraphModule(bodies, graph, class_name="DjinnReplay")

    def _leaf(self, kind: str, value: Any) -> Any:
        if kind == "bool" and type(value) is bool:
            return value
        if kind == "float" and isinstance(value, str) and _FLOAT.fullmatch(value):
            return float.fromhex(value) if "x" in value else float(value)
        if kind == "complex" and isinstance(value, str):
            return complex(value)
        if kind == "device" and isinstance(value, str):
            return torch.device(self._devices.get(value, value))
        if kind == "torch" and value in _TORCH_NAMES:
            return _TORCH_NAMES[value]
        if kind == "op" and isinstance(value, str):
            return find_operator(value)
        raise CannotReplay(f"a literal {kind!r} of {str(value)[:80]!r}")


def _at(nodes: Sequence[Node], number: Any) -> Node:
    if type(number) is not int or not 0 <= number < len(nodes):
        raise CannotReplay(f"an edge from {str(number)[:40]!r}, which is no earlier value")
    return nodes[number]


def first_loss(original: GraphModule, copy: GraphModule) -> str | None:
    """Where a copy of a graph differs from it in what it computes, in words; None if nowhere."""
    ours, theirs = _calls(original), _calls(copy)
    if [len(part) for part in ours] != [len(part) for part in theirs]:
        return "it has another number of inputs or ops"
    number = {node: place for place, node in enumerate((*ours[0], *ours[1]))}
    again = {node: place for place, node in enumerate((*theirs[0], *theirs[1]))}

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, Node) and isinstance(other, Node):
            if one.op == "get_attr" or other.op == "get_attr":
                bodies = [_body(node) for node in (one, other)]
                return None not in bodies and first_loss(*bodies) is None  # type: ignore[arg-type]
            return number.get(one) == again.get(other) is not None
        if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
            return len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, slice) and isinstance(other, slice):
            return all(map(same, (one.start, one.stop, one.step), (other.start, other.stop, other.step)))
        if type(one) is not type(other):
            return False
        return one is other or (one.hex() == other.hex() if isinstance(one, float) else bool(one == other))

    for mine, other in zip(ours[1], theirs[1], strict=True):
        same_target = mine.target is other.target
        if not same_target or not same(mine.args, other.args) or not same(dict(mine.kwargs), dict(other.kwargs)):
            return f"{mine.format_node()} comes out as {other.format_node()}"
    if not same(ours[2], theirs[2]):
        return "it returns other values"
    return None


def _calls(gm: GraphModule) -> tuple[list[Node], list[Node], list[Any]]:
    placeholders, calls, returned = [], [], []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            placeholders.append(node)
        elif node.op == "output":
            value = node.args[0]
            returned = list(value) if isinstance(value, (tuple, list)) else [value]
        elif node.op != "get_attr":
            calls.append(node)
    return placeholders, calls, returned


def _body(node: Node) -> GraphModule | None:
    if node.op != "get_attr":
        return None
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, GraphModule) else None
