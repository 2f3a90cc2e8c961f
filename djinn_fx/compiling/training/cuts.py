"""Where little passes from one part of a forward pass to the next: with that saved, each part is computed alone.

A share of saved bytes says how much is saved, not where: what is computed again in one go would then all be in memory
at once. With what passes between two parts saved, the backward graph computes one part after another.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import accumulate

from torch._ops import OpOverload
from torch.fx import Graph, Node

from djinn_fx.srg.graph import fake_value, size_hint, tensors_of

#: How much wider than the narrowest place another one may be.
_WIDER = 1.05
#: Part of the graph that a value passes through which is there nearly always, such as a mask.
_THROUGHOUT = 0.5


class Cuts:
    """The narrow places of a joint graph's forward part."""

    def __init__(self, joint: Graph) -> None:
        self._ops = _forward_ops(joint)
        self._crossing = _crossing(self._ops)
        widths = [sum(map(_nbytes, values)) for values in self._crossing]
        made = list(accumulate(map(_nbytes, self._ops)))
        middle = [at for at, width in enumerate(widths) if width and 0.02 < made[at] / max(1, made[-1]) < 0.98]
        least = min((widths[at] for at in middle), default=0)
        self._narrow = [at for at in middle if widths[at] <= _WIDER * least]
        self._made = made

    def saved(self, parts: int) -> frozenset[str]:
        """Names of the values to save for so many parts, about equally large; for one part, none."""
        found: set[str] = set()
        for number in range(1, parts):
            wanted = self._made[-1] * number / parts if self._made else 0
            at = min(self._narrow, key=lambda one: abs(self._made[one] - wanted), default=None)
            if at is not None:
                found.update(node.name for node in self._crossing[at])
        return frozenset(found)


def _forward_ops(joint: Graph) -> list[Node]:
    """The ops before the first one that a gradient reaches."""
    ops = []
    for node in joint.nodes:
        if any(source.op == "placeholder" and source.name.startswith("tangents") for source in node.all_input_nodes):
            break
        if node.op == "call_function":
            ops.append(node)
    return ops


def _crossing(ops: Sequence[Node]) -> list[set[Node]]:
    """After each op, the values that later ones of these read; views by what they are views of."""
    position = {node: at for at, node in enumerate(ops)}
    last: dict[Node, int] = {}
    for node in ops:
        uses = [position[user] for user in node.users if user in position]
        base = _base(node)
        if base in position and uses:
            last[base] = max(last.get(base, 0), *uses)
    found: list[set[Node]] = [set() for _ in ops]
    for node, end in last.items():
        if end - position[node] <= _THROUGHOUT * len(ops):
            for at in range(position[node], end):
                found[at].add(node)
    return found


def _base(node: Node) -> Node:
    """The op that made the memory of a value."""
    while node.args and isinstance(node.args[0], Node):
        unpacks = node.target is operator.getitem
        views = isinstance(node.target, OpOverload) and node.target.is_view
        if not (unpacks and isinstance(fake_value(node.args[0]), (tuple, list))) and not views:
            break
        if unpacks:
            return node  # what is unpacked is saved by itself
        node = node.args[0]
    return node


def _nbytes(node: Node) -> int:
    value = fake_value(node)
    return sum(size_hint(one.numel()) * one.element_size() for one in tensors_of(value)) if _base(node) is node else 0
