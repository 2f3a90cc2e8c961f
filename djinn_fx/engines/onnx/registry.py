"""Which ATen ops have a converter, and the type rules that many converters share.

A converter is a function ``(b, node, *args, **kwargs) -> Value | tuple[Value, ...]``. Its arguments are the node's own,
with torch's defaults *not* filled in, and with each Node replaced: a tensor by its :class:`Value`, a symbolic size by a
0-d int64 Value, an op's tuple by a tuple of them; numbers, dtypes, None and lists of these stay. ``fake(node)`` is what
torch says of the result: ``fake(node).dtype`` is always right to cast to, ``sizes_of`` its sizes as the builder wants
them. A converter raises :class:`Refused` for what it cannot do exactly; it never comes near.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.graph import GraphBuilder
from djinn_fx.engines.onnx.values import Refused, Value
from djinn_fx.srg.graph import fake_value

Converter = Callable[..., "Value | tuple[Value | None, ...]"]

TABLE: dict[str, Converter] = {}


def converts(*ops: str) -> Callable[[Converter], Converter]:
    """Enter a converter for ops by qualified name (``"aten.add.Tensor"``).

    Overloads that write in place (``aten.add_.Tensor``) never reach a converter: regions hold none but
    ``aten.copy_`` on an input, which ``convert.py`` does itself.
    """

    def enter(convert: Converter) -> Converter:
        for op in ops:
            assert op not in TABLE, f"{op} has two converters"
            TABLE[op] = convert
        return convert

    return enter


@functools.cache
def load() -> dict[str, Converter]:
    """The table with every module of ``converters/`` in it."""
    from djinn_fx.engines.onnx import converters

    for module in sorted(one.name for one in pkgutil.iter_modules(converters.__path__)):
        importlib.import_module(f"{converters.__name__}.{module}")
    return TABLE


def fake(node: Node) -> Any:
    """What torch says a node gives: a fake tensor, a SymInt, a number, or a tuple of these."""
    return fake_value(node)


def result_dtype(node: Node) -> torch.dtype:
    """The element type of a node's (single) result."""
    dtype = fake(node).dtype
    assert isinstance(dtype, torch.dtype)
    return dtype


@functools.cache
def _sample(dtype: torch.dtype, dimensioned: bool) -> torch.Tensor:
    return torch.empty((1,) if dimensioned else (), dtype=dtype)


def promoted(first: Value | int | float | bool, second: Value | int | float | bool) -> torch.dtype:
    """The type in which torch computes with two operands: tensors win over 0-d tensors, these over numbers."""
    operands: list[Any] = [_sample(x.dtype, bool(x.shape)) if isinstance(x, Value) else x for x in (first, second)]
    return torch.result_type(operands[0], operands[1])


def sizes_of(b: GraphBuilder, node: Node, *sources: Value) -> list[int | Value]:
    """The sizes of a node's result: numbers, and for a symbolic size a 0-d int64 value.

    Args:
        b: the builder.
        node: gives one tensor.
        sources: values in which an equal symbolic size may be looked for first.

    Raises:
        Refused: a symbolic size is a formula that cannot be reckoned from the model's inputs.
    """
    return [b.reckon(size, sources) for size in fake(node).shape]


__all__ = ["TABLE", "Converter", "Refused", "converts", "fake", "load", "promoted", "result_dtype", "sizes_of"]
