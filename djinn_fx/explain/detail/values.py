"""What a value is to the user: the module it belongs to, and its type and sizes. Names of nodes are the compiler's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch.fx import Node

from djinn_fx.passes.placing.pins import module_path
from djinn_fx.srg.graph import SRG, fake_value, size_hint, tensors_of
from djinn_fx.srg.record import Phase

_TOKENS = (Phase.PREFILL, Phase.DECODE)


@dataclass(frozen=True, kw_only=True)
class ValueInfo:
    """A value of the graph.

    ``module``: the one that makes it, or the first that reads what comes in; empty for none. ``tensor``: such as
    ``float32[32000, 1024]``; empty for what is no tensor.
    """

    module: str
    tensor: str


def values(srg: SRG, names: Iterable[str]) -> dict[str, ValueInfo]:
    """Some values, by the names of their nodes."""
    return {name: _value(srg, srg.node(name)) for name in dict.fromkeys(names)}


def _value(srg: SRG, node: Node) -> ValueInfo:
    outputs = srg.record(node).outputs
    around = [node] if node.op.startswith("call_") else [node, *_readers(srg, node)]
    module = next((path for one in around if (path := module_path(one))), "")
    return ValueInfo(module=module, tensor=str(outputs[0]) if outputs else "")


def _readers(srg: SRG, node: Node) -> Iterator[Node]:
    """Who reads a value, through views too, the nearest first."""
    waiting = list(node.users)
    for reader in waiting:
        yield reader
        if srg.record(reader).is_view:
            waiting.extend(reader.users)


def tokens(srg: SRG) -> int | None:
    """How many tokens, of all samples together, a call of prefill or decode computes; None where it cannot be told."""
    if srg.phase not in _TOKENS:
        return None
    embedded = [
        tensor.shape[:-1]
        for node in srg.ops
        if srg.record(node).op.startswith("aten.embedding.") and srg.record(node).phase is srg.phase
        for tensor in tensors_of(fake_value(node))
    ]
    return max((math.prod(map(size_hint, sizes)) for sizes in embedded), default=None)
