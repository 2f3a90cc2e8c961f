"""Which integer tensors are row and column numbers, and which masks built from them are causal.

A mask over scores [..., queries, keys] is causal if its edge is the diagonal: ``tril`` or ``triu``, or a comparison
of key numbers with query numbers. A sliding window has two edges; one that is causal has one of them on the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from djinn_fx.srg.lower import target_name
from djinn_fx.srg.record import Size

KEYS, QUERIES = 1, 2  # axes of a mask, counted from the end

COMPARISONS = ("aten.lt", "aten.le", "aten.gt", "aten.ge", "operator.lt", "operator.le", "operator.gt", "operator.ge")
TRIANGLES = frozenset({"aten.tril", "aten.triu"})
RANGES = frozenset({"aten.arange", "prims.iota"})


@dataclass(frozen=True)
class Numbers:
    """Consecutive numbers along one axis, or the difference of two such.

    Attributes:
        axis: counted from the end; 0 if it cannot be told.
        start: the first number; None if it is not known at compile time.
        is_difference: key number minus query number, or the other way round.
    """

    axis: int
    start: int | None
    is_difference: bool = False


def axis_of(shape: tuple[Size, ...]) -> int:
    """The axis, counted from the end, along which a mask operand varies: keys, queries, or 0 for unknown."""
    if not shape:
        return 0
    if shape[-1] != 1:
        return KEYS if len(shape) == 1 or shape[-2] == 1 else 0
    return QUERIES if len(shape) > 1 and shape[-2] != 1 else 0


def range_of(node: Node, op: str) -> Numbers:
    """Row or column numbers from ``arange`` or ``iota``."""
    if op == "prims.iota":
        start: Any = node.kwargs.get("start", 0)
    else:
        start = node.args[0] if len(node.args) > 1 else 0
    return Numbers(KEYS, start if isinstance(start, int) else None)


def moved(op: str, given: Numbers, shape: tuple[Size, ...]) -> Numbers:
    """The same numbers after a view, a slice, a copy or an expansion."""
    if given.is_difference or op == "aten.expand":
        return given
    return Numbers(axis_of(shape) or given.axis, None if op == "aten.slice" else given.start)


def picked(table: Numbers | None, indices: Sequence[Numbers | None], shape: tuple[Size, ...]) -> Numbers | None:
    """Numbers looked up by numbers, as ``positions[batch, rows]``: they vary along the axis of the result."""
    axis = axis_of(shape)
    known = [one.start for one in indices if one is not None and one.axis == axis]
    if not axis:
        return None
    if table is None or table.start is None or not known or known[-1] is None:
        return Numbers(axis, None)
    return Numbers(axis, table.start + known[-1])


def combined(op: str, left: Numbers | None, right: Numbers | None, constant: Any) -> Numbers | None:
    """The result of ``left ± right``, where an operand without numbers is a constant (None if it is a tensor)."""
    sign = -1 if op in ("aten.sub", "operator.sub") else 1
    if left is not None and right is not None:
        if sign > 0 or {left.axis, right.axis} != {KEYS, QUERIES}:
            return None
        start = None if left.start is None or right.start is None else left.start - right.start
        return Numbers(0, start, is_difference=True)
    one = left if left is not None else right
    if one is None or (sign < 0 and left is None):
        return None
    known = one.start is not None and isinstance(constant, int)
    return Numbers(
        one.axis, one.start + sign * constant if known and one.start is not None else None, one.is_difference
    )


def compares_on_diagonal(left: Numbers | None, right: Numbers | None, constant: Any) -> bool:
    """Whether comparing the operands gives a mask whose edge is the diagonal (one off it, for strictness)."""
    if left is not None and right is not None:
        if {left.axis, right.axis} != {KEYS, QUERIES}:
            return False
        return left.start is None or right.start is None or abs(left.start - right.start) <= 1
    one = left if left is not None else right
    if one is None or not one.is_difference or not isinstance(constant, (int, float)):
        return False
    return one.start is None or abs(constant - one.start) <= 1


def is_square(shape: tuple[Size, ...]) -> bool:
    """Whether the last two sizes are equal and not 1."""
    return len(shape) >= 2 and shape[-1] == shape[-2] and shape[-1] != 1


def mask_function_is_causal(module: GraphModule) -> bool:
    """Whether a flex-attention mask function (batch, head, query, key) -> bool compares its query with its key."""
    places = module.graph.find_nodes(op="placeholder")
    if len(places) < 4:
        return False
    side: dict[Node, int] = {places[2]: QUERIES, places[3]: KEYS}
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        sides = {side[source] for source in node.all_input_nodes if source in side}
        if len(sides) == 2:
            name = target_name(node.target)
            if name.startswith(COMPARISONS):
                return True
        elif sides:
            side[node] = sides.pop()
    return False
