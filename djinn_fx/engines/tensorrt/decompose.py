"""Ops without a converter, as the ops torch itself makes them of: the one place that knows its decompositions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.srg.graph import fake_value, tensors_of


@functools.cache
def _table() -> Mapping[Any, Callable[..., Any]]:
    return torch._decomp.core_aten_decompositions()


def decomposed(graph: Graph, known: Callable[[Node], bool]) -> Graph:
    """The graph with every op that is not known, and that torch can take apart, taken apart.

    Args:
        graph: its values are traced; it is left as it is.
        known: whether a node needs nothing done.
    """
    strange = {node for node in graph.nodes if node.op == "call_function" and not known(node) and _has_parts(node)}
    if not strange:
        return graph
    made = Graph()
    values: dict[Node, Any] = {}
    for node in graph.nodes:
        parts = _parts(node) if node in strange else None
        if parts is not None:
            values[node] = _inlined(made, node, parts, values)
        elif node.op == "call_function" and isinstance(values.get(source := _source(node)), (tuple, list)):
            values[node] = values[source][node.args[1]]
        elif node.op == "output":
            made.output(torch.fx.map_arg(node.args[0], lambda one: values[one]))
        else:
            values[node] = made.node_copy(node, lambda one: values[one])
    made.owning_module = graph.owning_module
    return made


def _has_parts(node: Node) -> bool:
    return node.target in _table() and not node.target._schema.is_mutable  # type: ignore[union-attr]


def _source(node: Node) -> Any:
    """What a ``getitem`` takes a part of."""
    return node.args[0] if getattr(node.target, "__name__", "") == "getitem" else None


def _parts(node: Node) -> Graph | None:
    """The op traced through torch's decompositions; None if it stays itself, or needs a constant tensor."""
    sources = node.all_input_nodes
    fakes = [tensor for source in (*sources, node) for tensor in tensors_of(fake_value(source))]
    if not fakes or not all(isinstance(one, FakeTensor) for one in fakes):
        return None

    def call(*given: Any) -> Any:
        known = dict(zip(sources, given, strict=True))
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda one: known[one])
        return node.target(*args, **kwargs)  # type: ignore[operator]

    try:
        with fakes[0].fake_mode, torch.no_grad():  # type: ignore[attr-defined]
            traced = make_fx(call, decomposition_table=dict(_table()))(*(fake_value(source) for source in sources))
    except Exception:  # noqa: BLE001 (the op stays as it is, and the Reason that refuses it names it)
        return None
    parts = traced.graph
    if any(one.op == "get_attr" or one.target is node.target for one in parts.nodes):
        return None
    return parts


def _inlined(made: Graph, node: Node, parts: Graph, values: dict[Node, Any]) -> Any:
    inner: dict[Node, Any] = {}
    for source, placeholder in zip(node.all_input_nodes, parts.find_nodes(op="placeholder"), strict=True):
        inner[placeholder] = values[source]
    for part in parts.nodes:
        if part.op == "output":
            return torch.fx.map_arg(part.args[0], lambda one: inner[one])
        if part.op != "placeholder":
            inner[part] = made.node_copy(part, lambda one: inner[one])
            # Messages are about the op that the user wrote.
            inner[part].meta = {**node.meta, "val": part.meta.get("val")}
    raise AssertionError("a graph without an output")
