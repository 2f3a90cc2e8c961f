"""A region's graph for another device of the same type than it was traced on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from djinn_fx.errors import LoweringError
from djinn_fx.srg.graph import META_KEY, fake_value
from djinn_fx.srg.record import OpRecord


def move(gm: GraphModule, source: str, target: str) -> None:
    """Have a region's graph compute on another device: its literals, its compile-time values and its records.

    Values that shared memory do so afterwards. A literal of the type without a number means the device that is current,
    which on another device's thread is that one, but for who compiles it is not: it gets the number too.

    Args:
        gm: a region cut out of its graph; it is changed.
        source: the device that its tensors are on, such as ``"cuda:0"``.
        target: where it is to run.

    Raises:
        LoweringError: a value is no fake one: it is on the device that it is on.
    """
    old, new = torch.device(source), torch.device(target)

    def literal(value: Any) -> Any:
        if not isinstance(value, torch.device) or value.type != old.type or value.index not in (None, old.index):
            return value
        return new

    for node in gm.graph.nodes:
        node.args, node.kwargs = _literals(node.args, literal), _literals(node.kwargs, literal)
        node.meta = dict(node.meta)  # cut out, it shares the graph's
        value = fake_value(node)
        if value is not None:
            node.meta["val"] = pytree.tree_map_only(
                torch.Tensor, functools.partial(_moved, old=old, new=new, node=node), value
            )
        node.meta.pop("example_value", None)
        record: OpRecord | None = node.meta.get(META_KEY)
        if record is not None:
            outputs = tuple(replace(one, device=target) if one.device == source else one for one in record.outputs)
            node.meta[META_KEY] = replace(record, outputs=outputs)
    gm.recompile()


def _literals(values: Any, literal: Callable[[Any], Any]) -> Any:
    return torch.fx.node.map_aggregate(values, literal)


def _moved(value: torch.Tensor, old: torch.device, new: torch.device, node: Node) -> torch.Tensor:
    """A fake tensor over the same memory, as one of another device."""
    if value.device != old:
        return value
    if not isinstance(value, FakeTensor):
        raise LoweringError(f"{node.name!r} is a tensor that is on {old} and cannot be moved to {new}")
    with in_kernel_invocation_manager(value.fake_mode):  # an op then gives what is behind the fake
        behind = torch.ops.aten.alias.default(value)
    return FakeTensor(value.fake_mode, behind, new)
