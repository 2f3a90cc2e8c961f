"""An op without a converter as the ops torch itself makes of it."""

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


def parts_of(node: Node) -> Graph | None:
    """A call traced through torch's decompositions, its placeholders in the order of ``node.all_input_nodes``.

    None if torch has no decomposition for it, if it would need a constant tensor, or if tracing fails: then the
    refusal names the op itself.
    """
    target: Any = node.target
    if target not in _table() or target._schema.is_mutable:
        return None
    sources = node.all_input_nodes
    fakes = [tensor for source in (*sources, node) for tensor in tensors_of(fake_value(source))]
    if not fakes or not all(isinstance(one, FakeTensor) for one in fakes):
        return None

    def call(*given: Any) -> Any:
        known = dict(zip(sources, given, strict=True))
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda one: known[one])
        return target(*args, **kwargs)

    try:
        with fakes[0].fake_mode, torch.no_grad():  # type: ignore[attr-defined]
            traced = make_fx(call, decomposition_table=dict(_table()))(*(fake_value(source) for source in sources))
    except Exception:  # noqa: BLE001 (the op stays as it is, and the Reason that refuses it names it)
        return None
    if any(one.op == "get_attr" or one.target is target for one in traced.graph.nodes):
        return None
    for one in traced.graph.nodes:
        one.meta = {**node.meta, "val": fake_value(one)}  # messages are about the op that the user wrote
    return traced.graph
