"""order: in which sequence the regions run."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.errors import PassError
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.effects import storages_of
from djinn_fx.srg.graph import SRG

#: Stands for the random generator among the storages: every op that draws from it reads and writes it.
_RANDOM = -1


@dataclass(frozen=True, kw_only=True)
class Order:
    """Order the regions: each after what it reads, and reads and writes of one memory as the graph has them.

    Regions keep the order of their indices wherever that is possible.
    """

    name: ClassVar[str] = "order"
    after: ClassVar[tuple[str, ...]] = ("place",)
    requires: ClassVar[tuple[str, ...]] = ("regions-partition",)
    ensures: ClassVar[tuple[str, ...]] = ("order-valid",)

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Sort the regions topologically, smallest index first.

        Raises:
            PassError: the regions depend on each other in a circle.
        """
        order = in_turn(dependencies(srg))
        if len(order) < len(srg.regions):
            stuck = [region.label for region in srg.regions if region.index not in set(order)]
            raise PassError(f"regions depend on each other in a circle: {', '.join(stuck[:8])}; they must be convex")
        srg.order = tuple(order)
        moved = sum(1 for place, index in enumerate(order) if place != index)
        detail = f"{len(order)} regions, " + (f"{moved} moved to follow what they read" if moved else "in graph order")
        return PassResult(modified=True, reasons=(Reason(kind=ReasonKind.ORDERED, detail=detail),))


def in_turn(before: Mapping[int, set[int]]) -> list[int]:
    """Regions, each behind those that must run before it, the smallest index first; those of a circle are missing."""
    waiting = {index: set(needed) for index, needed in before.items()}
    followers: dict[int, list[int]] = {}
    for index, needed in waiting.items():
        for other in needed:
            followers.setdefault(other, []).append(index)
    ready = [index for index, needed in waiting.items() if not needed]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for follower in followers.get(index, ()):
            waiting[follower].discard(index)
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    return order


def dependencies(srg: SRG) -> dict[int, set[int]]:
    """For each region the regions that must run before it: by data, by memory they share, by random numbers."""
    before = {region.index: _makers(srg, region.inputs) for region in srg.regions}
    writer: dict[int, int] = {}
    readers: dict[int, set[int]] = {}
    for node, (touched, writes) in srg.fact(_touched).items():
        region = srg.record(node).region
        if region is None:
            continue
        needs = before[region]
        for storage in touched:
            if storage in writer:
                needs.add(writer[storage])
            if storage in writes:
                needs.update(readers.pop(storage, ()))
                writer[storage] = region
            readers.setdefault(storage, set()).add(region)
    for region, needs in before.items():
        needs.discard(region)
    return before


def _touched(srg: SRG) -> dict[Node, tuple[set[int], set[int]]]:
    """Of each op that touches storages which some op writes: these, and those that it writes. In graph order."""
    storages = srg.fact(storages_of)
    writes_of = {node: writes for node in srg.ops if (writes := _written(srg, node, storages))}
    written = {storage for writes in writes_of.values() for storage in writes}
    found = {}
    for node in srg.ops if written else ():
        writes = writes_of.get(node, set())
        touched = {storage for source in node.all_input_nodes for storage in storages[source]} & written | writes
        if touched:
            found[node] = touched, writes
    return found


def _makers(srg: SRG, names: Iterable[str]) -> set[int]:
    """The regions that make these values. (What a region reads only for its size is among its inputs.)"""
    found = (srg.record(srg.node(name)).region for name in names)
    return {region for region in found if region is not None}


def _written(srg: SRG, node: Node, storages: dict[Node, tuple[int, ...]]) -> set[int]:
    """Storages the op writes, the random generator among them."""
    names = srg.record(node).mutates
    written = set[int]()
    if names:
        written |= {storage for source in node.all_input_nodes if source.name in names for storage in storages[source]}
    if isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
        written.add(_RANDOM)
    return written
