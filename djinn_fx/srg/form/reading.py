"""From a form's ops and literals to a graph: what rebuilding a region and replaying one have in common.

A form is data from elsewhere. Names in it are looked up, in torch's table of operators or in short lists here;
nothing in it is evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.srg.form.targets import CannotRebuild, find_operator, find_target, takes_tuples

#: More ops than any region has; a form is refused before time is spent on it.
_MAX_OPS = 200_000
_FLOAT = re.compile(r"-?(inf|nan|0x[01]\.[0-9a-f]+p[+-]\d+)")

TORCH_NAMES: dict[str, Any] = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format))
}


class Body:
    """A graph in the making: its nodes by number, and the bodies of its higher-order ops by name."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.nodes: list[Node] = []
        self.bodies: dict[str, GraphModule] = {}

    def node(self, number: Any) -> Node:
        """The node of a number.

        Raises:
            CannotRebuild: there is none so far.
        """
        if type(number) is not int or not 0 <= number < len(self.nodes):
            raise CannotRebuild(f"an edge from {str(number)[:40]!r}, which is no earlier value")
        return self.nodes[number]


class Unwritten(GraphModule):
    """A graph whose Python code is written when it is wanted: who runs it as an engine would writes their own.

    Writing it takes as long as making the graph.
    """

    def recompile(self) -> Any:
        """Write the code; where the graph is just being made, have that done by its first call."""
        if "_made" in self.__dict__:  # torch makes cache keys of what this returns
            return super().recompile()
        self.__dict__["_made"] = True
        type(self).forward = _write_and_call
        return None

    @property
    def code(self) -> str:
        """The code."""
        self.recompile()
        return super().code


def _write_and_call(self: GraphModule, *args: Any, **kwargs: Any) -> Any:
    GraphModule.recompile(self)
    return type(self).forward(self, *args, **kwargs)


class FormReader:
    """Makes graphs of forms.

    Args:
        devices: which device each numbered one of the form is: ``{"cuda#0": "cuda:1"}``.
    """

    def __init__(self, devices: Mapping[str, str]) -> None:
        self._devices = devices

    def graph(self, form: Mapping[str, Any], outputs: Any, name: str) -> GraphModule:
        """A graph of a form; ``outputs`` is the literal it returns.

        Raises:
            CannotRebuild: an op that is not known here, or a value that cannot be made.
        """
        if len(form["ops"]) > _MAX_OPS:
            raise CannotRebuild(f"{len(form['ops'])} ops")
        made = Body()
        self.place(form["inputs"], made)
        for op, args, kwargs, _ in form["ops"]:
            target = find_target(op)
            tuples = takes_tuples(target)
            if args[0] != "list":
                raise CannotRebuild(f"{op} has no list of arguments")
            given = tuple(self._literal(part, made, tuples) for part in args[1:])
            node = made.graph.call_function(target, given, self._entries(kwargs, made, tuples))
            self.compute(node, made)
            made.nodes.append(node)
        made.graph.output(self._literal(outputs, made, True))
        return Unwritten(made.bodies, made.graph, class_name=name)

    # What subclasses add

    def place(self, inputs: Sequence[Any], made: Body) -> None:
        """Make the placeholders."""
        made.nodes += [made.graph.placeholder(f"in_{number}") for number in range(len(inputs))]

    def compute(self, node: Node, made: Body) -> None:
        """Give a call that was made its value."""

    def size(self, text: str) -> Any:
        """A symbolic size."""
        raise CannotRebuild(f"a size {text[:80]!r}")

    # Literals

    def _literal(self, form: Any, made: Body, tuples: bool) -> Any:
        if form is None or type(form) in (str, int):
            return form
        kind, *parts = form
        if kind == "%":
            return made.node(parts[0])
        if kind == "list":
            items = [self._literal(part, made, tuples) for part in parts]
            return tuple(items) if tuples else items
        if kind == "dict":
            return self._entries(form, made, tuples)
        if kind == "slice":
            return slice(*(self._literal(part, made, tuples) for part in parts))
        if kind == "graph":
            name = f"body_{len(made.bodies)}"
            made.bodies[name] = self.graph(parts[0], parts[0]["outputs"], "DjinnBody")
            return made.graph.get_attr(name)
        return self._leaf(kind, parts[0])

    def _entries(self, form: Any, made: Body, tuples: bool) -> dict[str, Any]:
        if form[0] != "dict" or not all(isinstance(key, str) and key.isidentifier() for key, _ in form[1:]):
            raise CannotRebuild("keywords that are no names")
        return {key: self._literal(value, made, tuples) for key, value in form[1:]}

    def _leaf(self, kind: str, value: Any) -> Any:
        if kind == "bool" and type(value) is bool:
            return value
        if kind == "float" and isinstance(value, str) and _FLOAT.fullmatch(value):
            return float.fromhex(value) if "x" in value else float(value)
        if kind == "complex" and isinstance(value, str):
            return complex(value)
        if kind == "device":
            return self.device(value)
        if kind == "torch" and value in TORCH_NAMES:
            return TORCH_NAMES[value]
        if kind == "op" and isinstance(value, str):
            return find_operator(value)
        if kind == "sym" and isinstance(value, str):
            return self.size(value)
        raise CannotRebuild(f"a literal {kind!r} of {str(value)[:80]!r}")

    def device(self, name: Any) -> torch.device:
        """The device of a name."""
        if name in self._devices:
            return torch.device(self._devices[name])
        if not isinstance(name, str) or not re.fullmatch(r"[a-z]{1,20}", name):
            raise CannotRebuild(f"no device is told for {str(name)[:40]!r}")
        return torch.device(name)
