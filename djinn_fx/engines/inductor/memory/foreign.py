"""What torch's operators make and take where Inductor's function calls them: by torch's own rules for fake tensors."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule

from djinn_fx.costmodels.memory.workspace import Workspaces
from djinn_fx.costmodels.work.sizes import item_bytes
from djinn_fx.costmodels.work.work_of import sizes_of
from djinn_fx.srg.graph import tensors_of
from djinn_fx.srg.lower import lower

#: Calls by another name than torch's.
_NAMES = {"extern_kernels.convolution": "torch.ops.aten.convolution.default"}


class Seen(NamedTuple):
    """A tensor as far as its text tells."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """From the first element to the last."""
        if 0 in self.sizes:
            return 0
        last = sum((size - 1) * step for size, step in zip(self.sizes, self.strides, strict=True))
        return (last + 1) * item_bytes(self.dtype)


def foreign(
    called: str, call: ast.Call, view: Callable[[ast.expr], Seen | None], threads: int
) -> tuple[list[Seen], int]:
    """What a call makes, and the bytes it takes beside that; nothing where its text or the operator is not understood.

    Args:
        called: what is called, as text.
        call: the call.
        view: tells the tensor that an argument is.
        threads: of torch's kernels.
    """
    target = _target(_NAMES.get(called, called))
    if target is None:
        return [], 0
    graph, mode = Graph(), FakeTensorMode()

    def argument(value: ast.expr) -> Any:
        seen = view(value)
        if seen is None:
            if isinstance(value, (ast.List, ast.Tuple)):
                return [argument(one) for one in value.elts]
            return ast.literal_eval(value)
        node = graph.placeholder(f"given{len(graph.nodes)}")
        with mode:
            node.meta["val"] = torch.empty_strided(seen.sizes, seen.strides, dtype=getattr(torch, seen.dtype))
        return node

    try:
        args = [argument(one) for one in call.args]
        named = {one.arg: argument(one.value) for one in call.keywords if one.arg}
        node = graph.call_function(target, *_placed(target, args, named))
        real = torch.fx.node.map_arg((node.args, node.kwargs), lambda one: one.meta["val"])
        with mode:
            value = target(*real[0], **real[1])
    except Exception:  # noqa: BLE001 - whatever it is, what the text asserts of the result is all that is known then
        return [], 0
    node.meta["val"] = value
    graph.output(node)
    srg = lower(GraphModule({}, graph))
    made = [
        Seen(tuple(map(int, one.shape)), tuple(map(int, one.stride())), str(one.dtype).removeprefix("torch."))
        for one in tensors_of(value)
    ]
    return made, Workspaces(sizes_of(srg), threads).of(node)


def _placed(target: OpOverload, args: list[Any], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position, as rules read them."""
    order = [one.name for one in target._schema.arguments]
    while len(args) < len(order) and order[len(args)] in named:
        args.append(named.pop(order[len(args)]))
    return tuple(args), named


def _target(called: str) -> OpOverload | None:
    parts = called.split(".")
    if parts[:2] != ["torch", "ops"] or len(parts) != 5:
        return None
    found: Any = torch.ops
    for part in parts[2:]:
        found = getattr(found, part, None)
    return found if isinstance(found, OpOverload) else None
