"""What torch says of the values of a graph, as a model's values have it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.lowering.formulas import expression_of
from djinn_fx.engines.onnx.values import Refused, Value
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

#: Takes one of several results, of which others may have no elements.
PART = "operator.getitem"


def read_results(node: Node) -> list[torch.Tensor]:
    """What a call gives and anything reads; of a call that gives one tensor, that."""
    value = fake_value(node)
    if not isinstance(value, (tuple, list)):
        return tensors_of(value)
    taken = {user.args[1] for user in node.users if target_name(user.target) == PART and user.users}
    return [tensor for place, one in enumerate(value) if place in taken for tensor in tensors_of(one)]


def is_empty(fake: torch.Tensor) -> bool:
    """Whether it has no elements, whatever its symbols are."""
    return any(isinstance(size, int) and size == 0 for size in fake.shape)


def sizes_of(shape: Any) -> tuple[tuple[int | None, ...], tuple[str | None, ...]]:
    """Sizes as a Value has them, and the formulas of the symbolic ones."""
    expressions = [expression_of(size) for size in shape]
    known = tuple(one if isinstance(one, int) else None for one in expressions)
    if None not in known:
        return known, ()
    return known, tuple(None if isinstance(one, int) else str(one) for one in expressions)


def stamp(value: Any, fake: Any) -> Any:
    """The value with the sizes torch says it has.

    Raises:
        Refused: it is of another type or rank, which is a mistake in its converter.
    """
    if isinstance(fake, (tuple, list)):
        return tuple(None if one is None else stamp(one, other) for one, other in zip(value, fake, strict=True))
    if not isinstance(fake, torch.Tensor):
        return value
    if not isinstance(value, Value):
        raise Refused(f"its converter gave {value!r}")
    shape, symbols = sizes_of(fake.shape)
    if value.dtype is not fake.dtype or value.rank != len(shape):
        raise Refused(f"its converter gave {value.dtype} {list(value.shape)} for {fake.dtype} {list(shape)}")
    for mine, wanted in zip(value.shape, shape, strict=True):
        if mine is not None and wanted is not None and mine != wanted:
            raise Refused(f"its converter gave sizes {list(value.shape)} for {list(shape)}")
    return Value(value.name, value.dtype, shape, symbols)


__all__ = ["PART", "is_empty", "read_results", "sizes_of", "stamp"]
