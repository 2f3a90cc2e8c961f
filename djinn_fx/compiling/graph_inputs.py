"""What the inputs of Dynamo's graph are. Uses Dynamo's own sources: they say where each input was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from djinn_fx.srg.record import Residency

#: Dynamo's sources of what a module keeps as a parameter or buffer.
_KEPT_BY_MODULES = ("UnspecializedParamBufferSource", "ParamBufferSource")


def input_kinds(gm: GraphModule, example_inputs: Sequence[Any]) -> list[Residency]:
    """What each input of Dynamo's graph is: Dynamo lifts parameters and buffers to inputs and says where from."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    return [
        _kind(getattr(node, "_dynamo_source", None), value)
        for node, value in zip(placeholders, example_inputs, strict=False)
    ]


def place_of(node: Node, place: int) -> int:
    """Which input of Dynamo's graph a placeholder of AOTAutograd's forward graph is; by its own place if none says."""
    return int(getattr(node.meta.get("desc"), "idx", place))


def _kind(source: Any, value: Any) -> Residency:
    if isinstance(value, torch.nn.Parameter):
        return Residency.PARAMETER
    # Not by the name that the source spells: an argument may be called anything.
    kept = next((one for one in _chain(source) if _is_of_module(one)), None)
    if kept is None:
        return Residency.INPUT
    return Residency.PARAMETER if getattr(kept, "member", "") == "_parameters" else Residency.BUFFER


def _is_of_module(source: Any) -> bool:
    return any(one.__name__ in _KEPT_BY_MODULES for one in type(source).__mro__)


def _chain(source: Any) -> Iterator[Any]:
    """A source, and what each was reached from."""
    while source is not None:
        yield source
        source = getattr(source, "base", None)
