"""What must run before what, op by op: by data, by memory that is written, by random numbers, by effects outside."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.srg.effects import storages_of, written_nodes
from djinn_fx.srg.graph import SRG

#: Stand among the storages for what ops draw from or change outside of the graph: each of them reads and writes it.
_RANDOM, _OUTSIDE = -1, -2
#: Ops of these namespaces are known to do nothing but what their schema says.
_KNOWN = ("aten", "prims")
#: Modules of plain functions: sizes are reckoned with, results unpacked.
_PLAIN = ("_operator", "operator", "builtins", "math")


def predecessors(srg: SRG) -> dict[Node, set[Node]]:
    """For each op the ops that must run before it; those of these that follow from others may be missing.

    An op of which it is not known what it does, such as one with a body, keeps its place among all others.
    """
    before: dict[Node, set[Node]] = {}
    written, touched = _storages(srg)
    writer: dict[int, Node] = {}
    readers: dict[int, list[Node]] = {}
    wall: Node | None = None
    since: list[Node] = []  # the wall: the ops that came after it
    for node in srg.ops:
        needs = {source for source in node.all_input_nodes if source.op.startswith("call_")}
        if wall is not None:
            needs.add(wall)
        for storage in touched[node]:
            if storage in writer:
                needs.add(writer[storage])
            if storage in written[node]:
                needs.update(readers.pop(storage, ()))
                writer[storage] = node
            readers.setdefault(storage, []).append(node)
        if _is_wall(node):
            needs.update(since)
            wall, since = node, []
        else:
            since.append(node)
        needs.discard(node)
        before[node] = needs
    return before


def _storages(srg: SRG) -> tuple[dict[Node, set[int]], dict[Node, set[int]]]:
    """For each op the storages that it writes, and those it touches among the ones that any op writes."""
    storages = srg.fact(storages_of)
    written = {node: {*_outside(node), *_all(storages, written_nodes(node))} for node in srg.ops}
    ever = set().union(*written.values())
    if not ever:
        return written, written
    touched = {
        node: ({*_all(storages, node.all_input_nodes), *storages[node]} & ever) | written[node] for node in srg.ops
    }
    return written, touched


def _all(storages: dict[Node, tuple[int, ...]], nodes: Iterable[Node]) -> set[int]:
    return {storage for node in nodes for storage in storages[node]}


def _outside(node: Node) -> Iterator[int]:
    """What an op draws from or changes that is no tensor of the graph."""
    if isinstance(node.target, OpOverload):
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            yield _RANDOM
        if node.target.namespace not in _KNOWN:
            yield _OUTSIDE


def _is_wall(node: Node) -> bool:
    """Whether an op must keep its place among all others."""
    target = node.target
    if isinstance(target, OpOverload):
        gives_nothing = not target._schema.returns and not target._schema.is_mutable  # an assertion
        return gives_nothing or target.namespace == "profiler"
    plain = node.op == "call_function" and getattr(target, "__module__", None) in _PLAIN
    return not (plain or target is operator.getitem or getattr(target, "__name__", "").startswith("sym_"))
