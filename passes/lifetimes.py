"""lifetimes: from when to when each value's memory is in use, and the peak of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from torch.fx import Node

from djinn_fx.costmodels.work.traffic import touched_bytes
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.srg.effects import storages_of
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import GraphKind, Residency

#: What a backward graph gets in a boxed list and may free after the last use: saved activations and gradients.
_FREED_IN_BACKWARD = (Residency.ACTIVATION, Residency.INPUT)


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """Set every value's half-open lifetime in graph positions, and the graph's peak in bytes.

    A value lives from its op to the last use of its memory, through whatever view: a view keeps its base alive.
    What the graph returns lives to the end; inputs and weights live the whole graph, except in a backward graph,
    whose inputs are handed over in a list that is emptied as they are used.
    """

    name: ClassVar[str] = "lifetimes"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("lifetimes-valid",)

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Compute lifetimes per storage, then give each node the lifetime of its storages."""
        storages = srg.fact(storages_of)
        position = {node: index for index, node in enumerate(srg.nodes)}
        last_use = {node: _last_use(node, position) for node in position}
        spans = _spans(srg, storages, position, last_use)
        for node, index in position.items():
            mine = storages[node]
            if len(mine) == 1:
                last = spans[mine[0]][1]
            else:
                last = max((spans[storage][1] for storage in mine), default=last_use[node] + 1)
            start = 0 if node.op in ("placeholder", "get_attr") else index
            srg.update(node, lifetime=(start, last if last > index else index + 1))
        srg.peak_bytes = _peak(_sizes(srg, storages), spans, len(position))
        return PassResult(modified=True)


def _last_use(node: Node, position: dict[Node, int]) -> int:
    return max([position[user] for user in node.users], default=position[node])


def _spans(
    srg: SRG, storages: dict[Node, tuple[int, ...]], position: dict[Node, int], last_use: dict[Node, int]
) -> dict[int, tuple[int, int]]:
    """From when to when each storage is in use, half-open."""
    spans: dict[int, tuple[int, int]] = {}
    for node, index in position.items():
        end = len(position) if _lives_throughout(srg, node) else last_use[node] + 1
        begin = 0 if node.op in ("placeholder", "get_attr") else index
        for storage in storages[node]:
            start, last = spans.get(storage, (begin, end))
            spans[storage] = (min(start, begin), max(last, end))
    return spans


def _lives_throughout(srg: SRG, node: Node) -> bool:
    """Whether someone outside the graph holds the value."""
    if node.op == "get_attr":
        return True
    if node.op != "placeholder":
        return False
    return not (srg.kind is GraphKind.BACKWARD and srg.record(node).residency in _FREED_IN_BACKWARD)


def _sizes(srg: SRG, storages: dict[Node, tuple[int, ...]]) -> dict[int, int]:
    """Bytes of each storage: of its largest owner; a view is never larger than what it views."""
    size: dict[int, int] = {}
    for node, mine in storages.items():
        record = srg.record(node)
        for storage, meta in zip(mine, record.outputs, strict=True):
            if storage not in size or not record.is_view:
                size[storage] = max(size.get(storage, 0), touched_bytes(meta))
    return size


def _peak(size: dict[int, int], spans: dict[int, tuple[int, int]], total: int) -> int:
    """Largest sum of the storages in use at one position, in bytes."""
    change = [0] * (total + 1)
    for storage, (start, end) in spans.items():
        change[start] += size[storage]
        change[end] -= size[storage]
    return max(accumulate(change), default=0)
