"""From labels on ops to convex regions, whatever the labels say.

A partition here is a tuple of groups, one group number per op, such that every dependency goes from a lower or
equal group to a higher or equal one. Groups run in the order of their numbers, so each is convex by construction.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from djinn_fx.srg.graph import SRG


@dataclass(frozen=True, kw_only=True)
class OpList:
    """The ops of a graph in graph order, with everything that ties one to another.

    Attributes:
        nodes: the ops.
        before: for each op, the indices of the ops that must not run after it: producers, earlier accesses of
            memory it writes, the last write of memory it reads, and earlier ops with effects.
        writes: whether the op writes memory that outlives it.
        same_as: for each op, the op whose group it must share (a tuple's element and the tuple), or itself.
    """

    nodes: tuple[Node, ...]
    before: tuple[tuple[int, ...], ...]
    writes: tuple[bool, ...]
    same_as: tuple[int, ...]


def op_list(srg: SRG) -> OpList:
    """Collect the ops and their dependencies, those through memory and through effects included."""
    nodes = tuple(srg.ops)
    index = {node: place for place, node in enumerate(nodes)}
    written = {meta.storage for node in nodes for name in srg.record(node).mutates
               for meta in srg.record(srg.node(name)).outputs}  # fmt: skip
    touched: dict[int, list[int]] = {storage: [] for storage in written}
    last_write: dict[int, int] = {}
    last_effect: int | None = None
    before: list[tuple[int, ...]] = []
    for place, node in enumerate(nodes):
        ties = [index[source] for source in node.all_input_nodes if source in index]
        if written:
            ties += _memory_ties(srg, node, place, touched, last_write)
        if has_effect(node):
            if last_effect is not None:
                ties.append(last_effect)
            last_effect = place
        # An op that reads and writes one memory (a copy within it) does not wait for itself.
        before.append(tuple(tie for tie in dict.fromkeys(ties) if tie != place))
    return OpList(
        nodes=nodes,
        before=tuple(before),
        writes=tuple(bool(srg.record(node).mutates) for node in nodes),
        same_as=tuple(_bound_to(node, index) for node in nodes),
    )


def _memory_ties(
    srg: SRG, node: Node, place: int, touched: dict[int, list[int]], last_write: dict[int, int]
) -> list[int]:
    """Ops tied to this one because both touch memory that some op writes."""
    ties: list[int] = []
    targets = set(srg.record(node).mutates)
    for source in node.all_input_nodes:
        for meta in srg.record(source).outputs:
            if meta.storage not in touched:
                continue
            if meta.storage in last_write:
                ties.append(last_write[meta.storage])
            if source.name in targets:
                ties += touched[meta.storage]
                last_write[meta.storage] = place
            touched[meta.storage].append(place)
    return ties


def has_effect(node: Node) -> bool:
    """Whether an op's place among other such ops can be seen: it draws random numbers, asserts, prints.

    Writing to memory is not meant: only ops that touch that memory see it, and they are tied to the write.
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        # Of torch's own operators it is known for good; one of a user's may be declared so later.
        return _is_effectful(target) if target.namespace == "aten" else _is_effectful.__wrapped__(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target.name()) != "invoke_subgraph"
    return node.is_impure()


@functools.cache
def _is_effectful(target: torch._ops.OpOverload) -> bool:
    """Whether calls of an operator draw random numbers or do something else that others can see."""
    if torch.Tag.nondeterministic_seeded in target.tags:
        return True
    return Graph().create_node("call_function", target).is_impure() and not target._schema.is_mutable


def _bound_to(node: Node, index: dict[Node, int]) -> int:
    if node.target is operator.getitem and isinstance(node.args[0], Node) and node.args[0] in index:
        return index[node.args[0]]
    return index[node]


def all_groups(ops: OpList, labels: Sequence[int | None]) -> Iterator[tuple[int, ...]]:
    """:func:`to_groups` with each choice of its options, gaps joined first, and lent early first."""
    ranked = [_ranked(ops, labels, lend_early) for lend_early in (True, False)]
    for join_gaps in (True, False):
        for one in ranked:
            yield _grouped(ops, one, join_gaps)


def to_groups(
    ops: OpList, labels: Sequence[int | None], *, join_gaps: bool, lend_early: bool = False
) -> tuple[int, ...]:
    """Turn labels into a partition.

    Args:
        ops: the graph's ops.
        labels: for each op, the number of its unit (any numbers), or None for an op that belongs to no unit.
        join_gaps: what happens to ops between two units: True puts them into the unit that reads them first,
            False makes a group of its own of them.
        lend_early: what happens to an op of one unit that an earlier unit needs (a backward graph recomputes what
            the first layer's forward shared with all): True moves it to the earlier unit, False moves the users
            to the later one.

    An op without a label is prologue if it needs no unit, epilogue if no unit needs it. An op that a dependency
    forbids to run in its own unit moves to a later group.
    """
    return _grouped(ops, _ranked(ops, labels, lend_early), join_gaps)


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """For each op the rank of its unit and of the first that needs it; ``last`` is behind all."""

    ranks: Sequence[int | None]
    needed_by: Sequence[int]
    last: int


def _ranked(ops: OpList, labels: Sequence[int | None], lend_early: bool) -> _Ranked:
    rank = _ranks(labels)
    last = 2 * len(rank) + 2
    ranks = [None if label is None else rank[label] for label in labels]
    needed_by = _first_needing_unit(ops, ranks, last, lend_early)
    if lend_early:
        ranks = [None if one is None else min(one, unit) for one, unit in zip(ranks, needed_by, strict=True)]
    return _Ranked(ranks=ranks, needed_by=needed_by, last=last)


def _grouped(ops: OpList, ranked: _Ranked, join_gaps: bool) -> tuple[int, ...]:
    needed_by = ranked.needed_by
    if not join_gaps:
        needed_by = [unit if unit == ranked.last else unit - 1 for unit in needed_by]
    groups: list[int] = []
    for place, (own, before) in enumerate(zip(ranked.ranks, ops.before, strict=True)):
        floor = 0
        for tie in before:
            if groups[tie] > floor:
                floor = groups[tie]
        if ops.same_as[place] != place:
            groups.append(groups[ops.same_as[place]])
            continue
        wanted = own if own is not None else _unlabelled(ops, place, floor, needed_by[place])
        groups.append(wanted if wanted > floor else floor)
    return _compact(groups)


def _unlabelled(ops: OpList, place: int, floor: int, needed_by: int) -> int:
    if ops.writes[place] or floor == 0:
        # A write goes with what computed the value, so that the compiler can write in place.
        return floor
    return needed_by


def _ranks(labels: Sequence[int | None]) -> dict[int, int]:
    """Number the units 2, 4, 6, ... in the order of the mean position of their ops; gaps take the odd numbers."""
    sums: dict[int, int] = {}
    counts: dict[int, int] = {}
    for place, label in enumerate(labels):
        if label is not None:
            sums[label] = sums.get(label, 0) + place
            counts[label] = counts.get(label, 0) + 1
    ordered = sorted(sums, key=lambda unit: sums[unit] / counts[unit])
    return {unit: 2 * number for number, unit in enumerate(ordered, start=1)}


def _first_needing_unit(ops: OpList, ranks: Sequence[int | None], last: int, through_units: bool) -> list[int]:
    """The first unit that reads each op, directly or through ops of no unit (of any, if ``through_units``)."""
    needed = [last] * len(ranks)
    for place in range(len(ranks) - 1, -1, -1):
        rank = ranks[place]
        mine = needed[place] if rank is None else min(rank, needed[place]) if through_units else rank
        for tie in ops.before[place]:
            if mine < needed[tie]:
                needed[tie] = mine
    return needed


def _compact(groups: Sequence[int]) -> tuple[int, ...]:
    """Renumber without gaps, keeping the order."""
    number = {group: place for place, group in enumerate(sorted(set(groups)))}
    return tuple(number[group] for group in groups)
