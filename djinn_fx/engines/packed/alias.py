"""Which values of a region's graph share memory: what may be dropped, written over, or made once for all calls."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.srg.graph import fake_value

aten = torch.ops.aten

#: Ops that may give back their argument's memory although their schema does not say so.
_MAY_ALIAS = frozenset(
    {aten._unsafe_view.default, aten.reshape.default, aten.contiguous.default, aten.lift_fresh.default}
)
#: Ops whose result is not given by their arguments.
_NOT_PURE = frozenset(
    {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default}
)
#: Functions that stand for ops: pure, with results of their own.
_OURS = frozenset({packed_ops.product, packed_ops.convolution})


def is_fresh(node: Node) -> bool:
    """Whether the node's result is memory of its own."""
    target = node.target
    if target in _OURS:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target in _MAY_ALIAS:
        return False
    return all(one.alias_info is None for one in target._schema.returns)


def is_pure(node: Node) -> bool:
    """Whether the node always gives the same for the same arguments and changes nothing."""
    target = node.target
    if target is operator.getitem or target is packed_ops.settled or target in _OURS:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target in _NOT_PURE:
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


class Roots:
    """For each node, the nodes whose memory its value may lie in."""

    def __init__(self, graph: Graph) -> None:
        self._roots: dict[Node, frozenset[Node]] = {}
        for node in graph.nodes:
            if node.op == "output":
                continue
            if node.op != "call_function" or is_fresh(node):
                self._roots[node] = frozenset({node})
            else:
                sources = [self._roots[source] for source in node.all_input_nodes if _is_tensor(source)]
                self._roots[node] = frozenset().union(*sources) if sources else frozenset({node})
        self.returned: frozenset[Node] = self.union(graph.output_node().all_input_nodes)

    def of(self, node: Node) -> frozenset[Node]:
        """The roots of one node."""
        return self._roots[node]

    def union(self, nodes: Iterable[Node]) -> frozenset[Node]:
        """The roots of several."""
        return frozenset().union(*(self._roots[node] for node in nodes))


def _is_tensor(node: Node) -> bool:
    value = fake_value(node)
    return value is None or isinstance(value, (torch.Tensor, list, tuple))


def foldable(graph: Graph, weights: Iterable[Node]) -> frozenset[Node]:
    """The ops that can be computed once for a set of weights: pure, and made of weights and numbers alone.

    None of them shares memory with a result: what a region returns is the caller's to change.
    """
    roots = Roots(graph)
    known = set(weights)
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            known.add(node)
        if node.op != "call_function" or not is_pure(node) or not _is_plain_tensor(fake_value(node)):
            continue
        if all(source in known for source in node.all_input_nodes) and not roots.of(node) & roots.returned:
            known.add(node)
            found.add(node)
    return frozenset(found)


def _is_plain_tensor(value: Any) -> bool:
    """Tensors of known sizes, one or several."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain_tensor(one) for one in value)
    return isinstance(value, torch.Tensor) and all(type(size) is int for size in (*value.shape, *value.stride()))


def same_sizes(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether two lists of sizes are equal for all values of their symbols. Guards nothing."""
    left, right = list(one), list(other)
    return len(left) == len(right) and all(same_size(a, b) for a, b in zip(left, right, strict=True))


def same_size(one: Any, other: Any) -> bool:
    """Whether two sizes are equal for all values of their symbols. Guards nothing."""
    if type(one) is int and type(other) is int:
        return one == other
    expressions = [size.node.expr if isinstance(size, torch.SymInt) else size for size in (one, other)]
    return bool(expressions[0] == expressions[1])


def same_layout(one: Any, other: Any) -> bool:
    """Whether two fake tensors have the same type, shape and strides."""
    return (
        isinstance(one, torch.Tensor)
        and isinstance(other, torch.Tensor)
        and one.dtype is other.dtype
        and one.device == other.device
        and same_sizes(one.shape, other.shape)
        and same_sizes(one.stride(), other.stride())
    )


def is_dense(value: torch.Tensor) -> bool:
    """Whether the tensor is contiguous for all values of its symbols."""
    expected: Any = 1
    for size, stride in reversed(list(zip(value.shape, value.stride(), strict=True))):
        if not same_size(stride, expected) and not same_size(size, 1):
            return False
        expected = size * expected
    return True


def is_empty(value: torch.Tensor) -> bool:
    """Whether the tensor has no elements, whatever the values of its symbols."""
    return any(type(size) is int and size == 0 for size in value.shape)
