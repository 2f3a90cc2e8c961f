"""Which operands torch makes sure of by itself: indices, divisors, classes. Engines' kernels do not all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.ranges.analysis import is_whole
from djinn_fx.srg.graph import fake_value

#: Torch raises where whole numbers are divided by 0; so does ``aten.div`` with a rounding mode.
DIVISIONS = frozenset({"aten.floor_divide", "aten.remainder", "aten.fmod"})
#: Their second operand are classes, of which one means that a row is left out.
CLASSES = frozenset({"aten.nll_loss_forward", "aten.nll_loss2d_forward"})
#: Their second operand are places in a result of these last dimensions, counted from the front.
_UNPOOLS = {"aten.max_unpool2d": (-2, -1), "aten.max_unpool3d": (-3, -2, -1)}
#: Ops that are given a dimension and an index which counts from the front alone.
_FROM_FRONT = frozenset(
    f"aten.{name}"
    for name in "index_select gather scatter scatter_add scatter_reduce index_add index_copy index_reduce".split()
)


def divides_whole(name: str, node: Node) -> bool:
    """Whether a call divides whole numbers.

    Args:
        name: of the op, without its overload.
        node: a call of it.
    """
    fake = fake_value(node)
    division = name in DIVISIONS or (name == "aten.div" and node.kwargs.get("rounding_mode") is not None)
    return division and isinstance(fake, torch.Tensor) and is_whole(fake.dtype)


class Size:
    """A size that indices must be below: of some dimensions of a node, or of all of them."""

    def __init__(self, source: Any, *dims: int) -> None:
        shape = fake_value(source).shape
        self.source = source
        self.dims = tuple(dim % len(shape) for dim in dims or range(len(shape))) if shape else ()
        self.key = (source, self.dims)

    @property
    def symbolic(self) -> Any:
        """As the tracer knows it."""
        count: Any = 1
        for dim in self.dims:
            count = count * fake_value(self.source).shape[dim]
        return count


def indices(name: str, node: Node) -> Iterator[tuple[Node, Size, bool]]:
    """The operands of a call that are indices, what they must be below, and whether they may count from the end."""
    args = node.args
    if name == "aten.embedding":
        yield args[1], Size(args[0], 0), False  # type: ignore[misc]
    elif name in _FROM_FRONT:
        yield args[2], Size(args[0], args[1]), False  # type: ignore[arg-type, misc]
    elif name in _UNPOOLS:
        yield args[1], Size(node, *_UNPOOLS[name]), False  # type: ignore[misc]
    elif name == "aten.index_fill":
        yield args[2], Size(args[0], args[1]), True  # type: ignore[arg-type, misc]
    elif name in ("aten.take", "aten.put"):
        yield args[1], Size(args[0]), True  # type: ignore[misc]
    elif name in ("aten.index", "aten.index_put"):
        for dim, index in enumerate(args[1]):  # type: ignore[arg-type]
            if isinstance(index, Node) and fake_value(index).dtype not in (torch.bool, torch.uint8):
                yield index, Size(args[0], dim), True
