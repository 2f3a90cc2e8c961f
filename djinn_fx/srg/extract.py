"""Cutting a region out of its graph as a graph module of its own, and the values it reads and gives back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.srg.graph import SRG, attribute, fake_value, tensors_of
from djinn_fx.srg.plan import Region

_SYMBOL = re.compile(r"\b(?:s|u|zf|zuf)\d+\b")
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def is_body(node: Node) -> bool:
    """Whether the node is the body of a higher-order op: a get_attr of a graph module, not a value."""
    if node.op != "get_attr":
        return False
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return isinstance(value, torch.nn.Module)


def size_ops(srg: SRG) -> frozenset[Node]:
    """The ops that only reckon with sizes: ``2*s0`` from ``s0``. A tracer shares them over the whole graph.

    They cost nothing, so a region that needs one computes it itself: regions that are alike stay alike.
    """
    found: set[Node] = set()
    for node in srg.ops:
        if isinstance(fake_value(node), _SYMBOLIC) and all(
            source in found or (source.op == "placeholder" and not srg.record(source).outputs)
            for source in node.all_input_nodes
        ):
            found.add(node)
    return frozenset(found)


def with_sizes(nodes: Sequence[Node], sizes: frozenset[Node], returned: Node) -> tuple[Node, ...]:
    """The ops of a region with exactly the size ops it needs, these first.

    Args:
        nodes: the region's ops.
        sizes: the graph's :func:`size_ops`.
        returned: the graph's output node; a size op it reads stays where it was put.
    """
    if not sizes:
        return tuple(nodes)
    needed: dict[Node, None] = {}

    def need(node: Node) -> None:
        for source in node.all_input_nodes:
            if source in sizes and source not in needed:
                need(source)
                needed[source] = None

    for node in nodes:
        if node not in sizes or returned in node.users:
            need(node)
            if node in sizes:
                needed.setdefault(node)
    return (*needed, *(node for node in nodes if node not in sizes))


class Mentions(Protocol):
    """The size symbols that each node's value and its sizes mention, in order."""

    def get(self, node: Node, default: tuple[str, ...], /) -> tuple[str, ...]:
        """A node's, or the default for one that mentions none."""


class _Asked:
    """Looks at each node when it is asked for."""

    def __init__(self, srg: SRG) -> None:
        self._srg = srg

    def get(self, node: Node, default: tuple[str, ...], /) -> tuple[str, ...]:
        return _mentioned(self._srg, node) or default


def mentions(srg: SRG) -> dict[Node, tuple[str, ...]]:
    """What each node of a graph mentions, for whoever asks often."""
    found = {}
    for node in srg.nodes:
        names = _mentioned(srg, node)
        if names:
            found[node] = names
    return found


def boundary(
    srg: SRG,
    nodes: Sequence[Node],
    symbols: dict[str, Node],
    sizes: frozenset[Node] = frozenset(),
    known: Mentions | None = None,
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """What a region reads from outside, in order of first use, and what others read from it.

    Args:
        srg: the graph.
        nodes: the region's ops.
        symbols: for each size symbol, the input that holds its value (see :func:`symbol_sources`); a region whose
            shapes mention a symbol gets it as an input, so that it can be compiled on its own.
        sizes: ops that each region computes for itself; only the graph's output reads them from a region.
        known: the graph's :func:`mentions`, if they are at hand.
    """
    known = _Asked(srg) if known is None else known
    inside = set(nodes)
    inputs: dict[Node, None] = {}
    mentioned: dict[str, None] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            if source not in inside and source not in inputs and not is_body(source):
                inputs[source] = None
                mentioned.update(dict.fromkeys(known.get(source, ())))
        names = known.get(node, ())
        if names:
            mentioned.update(dict.fromkeys(names))
    for name in mentioned:
        holder = symbols.get(name)
        if holder is not None and holder not in inside:
            inputs.setdefault(holder)
    output = srg.output
    outputs = tuple(
        node for node in nodes if (output in node.users if node in sizes else not inside.issuperset(node.users))
    )
    return tuple(inputs), outputs


def _mentioned(srg: SRG, node: Node) -> tuple[str, ...]:
    """The size symbols in a node's value and sizes, in order."""
    value, mentioned = fake_value(node), dict[str, None]()
    if isinstance(value, _SYMBOLIC):
        for name in _SYMBOL.findall(str(value.node.expr)):
            mentioned.setdefault(name)
    for meta in srg.record(node).outputs:
        if meta.is_symbolic:
            for size in (*meta.shape, *meta.strides, meta.storage_offset):
                if isinstance(size, str):
                    for name in _SYMBOL.findall(size):
                        mentioned.setdefault(name)
    return tuple(mentioned)


def depends_on_data(srg: SRG, node: Node, known: Mentions | None = None) -> bool:
    """Whether the node's value, or a size of it, holds a number read from data: ``u0``, the count of non-zeros."""
    names = (_Asked(srg) if known is None else known).get(node, ())
    return any(name.startswith(("u", "zu")) for name in names)


def symbol_sources(srg: SRG) -> dict[str, Node]:
    """For each size symbol, the graph's input that is exactly that symbol.

    Ops that compute a symbol are left out: a region that mentions it would have to wait for the op's region.
    """
    sources: dict[str, Node] = {}
    for node in srg.inputs:
        value = fake_value(node)
        if isinstance(value, _SYMBOLIC):
            name = str(value.node.expr)
            if _SYMBOL.fullmatch(name):
                sources.setdefault(name, node)
    return sources


def unbound_symbols(srg: SRG, nodes: Sequence[Node], inputs: Sequence[Node], known: Mentions | None = None) -> set[str]:
    """Size symbols a region mentions that none of its inputs tells: such a region cannot stand alone."""
    known = _Asked(srg) if known is None else known
    if isinstance(known, dict) and not known:
        return set()
    mentioned, told = set[str](), set[str]()
    for node in inputs:
        mentioned.update(known.get(node, ()))
        value = fake_value(node)
        if isinstance(value, _SYMBOLIC):
            told.add(str(value.node.expr))
        for tensor in tensors_of(value):
            sizes: tuple[Any, ...] = tuple(tensor.shape)  # torch annotates int where a SymInt may come
            told.update(str(size.node.expr) for size in sizes if isinstance(size, torch.SymInt))
    made = {str(v.node.expr) for node in nodes if isinstance(v := fake_value(node), _SYMBOLIC)}
    for node in nodes:
        if not isinstance(fake_value(node), _SYMBOLIC):
            mentioned.update(known.get(node, ()))
    return mentioned - told - made


def extract(srg: SRG, region: Region) -> GraphModule:
    """The region as a graph module: placeholders in the order of its inputs, returns a tuple of its outputs."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    bodies: dict[str, Any] = {}
    for name in region.inputs:
        source = srg.node(name)
        placeholder = graph.placeholder(source.name)
        value = input_value(srg, source)
        placeholder.meta = {"val": value}
        if "tensor_meta" in source.meta:
            placeholder.meta["tensor_meta"] = source.meta["tensor_meta"]
        copies[source] = placeholder
    for name in region.nodes:
        node = srg.node(name)
        for source in node.all_input_nodes:
            if source not in copies:
                copies[source] = graph.get_attr(str(source.target))
                bodies[str(source.target)] = attribute(srg.gm, source.target)
        copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(tuple(copies[srg.node(name)] for name in region.outputs))
    return GraphModule(bodies, graph, class_name="DjinnRegion")


def input_value(srg: SRG, node: Node) -> Any:
    """The compile-time value of a region's input; a constant tensor's own value where it was not traced."""
    value = fake_value(node)
    return attribute(srg.gm, node.target) if value is None and node.op == "get_attr" else value
