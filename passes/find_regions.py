"""find-regions: cut the graph where its structure repeats, so that each distinct part is compiled once.

How a cut is judged. Let a partition have regions R, of them D distinct. Compiling costs about ``FIXED_S`` a
distinct region and ``PER_OP_S`` an op in it; the whole graph as one region costs the same sum for D = {graph}.
The difference is what a cut *saves*, once. What it *costs*, on every call, is ``CALL_S`` a region beyond the
first, plus writing and reading back each value that crosses a boundary although both its maker and a reader
are ops that a compiler would have fused (a matmul's result is written to memory anyway). A partition is taken
only if its cost is at most ``max_boundary_share`` of the graph's estimated run time, and over ``expected_calls``
calls at most what it saves; among those, the one with the largest difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch.fx import Node

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.graph_work import part_of, priced
from djinn_fx.costmodels.laws.build_time import FIXED_S, PER_OP_S
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.passes.cutting.partition import OpList, all_groups, op_list
from djinn_fx.passes.cutting.repeats import Labels, by_module_stack, by_structure
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.extract import (
    Mentions,
    boundary,
    depends_on_data,
    mentions,
    size_ops,
    symbol_sources,
    unbound_symbols,
    with_sizes,
)
from djinn_fx.srg.form.digests import Digests
from djinn_fx.srg.form.hashing import NoCanonicalForm, canonical_form
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region, distinct
from djinn_fx.srg.record import Cost, total
from djinn_fx.units import format_seconds

#: Seconds one more region adds to a call.
CALL_S = 10e-6
#: Bytes a second at which a value that crosses a boundary is written and read back.
BANDWIDTH_BYTES_S = 10e9

#: Ops whose result is in memory whether or not a boundary follows.
_MATERIALISED = ("mm.", "bmm.", "addmm.", "baddbmm.", "convolution.", "scaled_dot_product", "embedding.", "index_put")


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A possible cut, with its judgement."""

    regions: tuple[Region, ...]
    how: str
    saved_s: float
    cost_s: float

    @property
    def distinct(self) -> int:
        return distinct(self.regions)


@dataclass(frozen=True, kw_only=True)
class FindRegions:
    """See the module's text.

    Attributes:
        min_ops: shortest repeated unit that is worth a region.
        max_boundary_share: largest share of the estimated run time that the cuts may cost.
        whole: never cut.
    """

    name: ClassVar[str] = "find-regions"
    after: ClassVar[tuple[str, ...]] = ("estimate-cost",)
    requires: ClassVar[tuple[str, ...]] = ("costed",)
    ensures: ClassVar[tuple[str, ...]] = ("regions-partition",)

    min_ops: int = 8
    max_boundary_share: float = 0.05
    whole: bool = False

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Set ``srg.regions`` and each op's ``region``."""
        ops = srg.fact(op_list)
        if not ops.nodes:
            return PassResult(modified=False, reasons=(_whole("the graph has no ops"),))
        if self.whole:
            return _take_whole(srg, ops, "cutting is switched off", context)
        if len(ops.nodes) < 2 * self.min_ops:
            return _take_whole(srg, ops, f"only {len(ops.nodes)} ops: nothing to save", context)
        mentioned = srg.fact(mentions)
        unknown = next((node for node in mentioned if depends_on_data(srg, node, mentioned)), None)
        if unknown is not None:
            return _take_whole(srg, ops, f"{unknown.name!r} depends on a number that only the data tell", context)
        builder = _Builder(srg, ops, mentioned)
        candidates = self._candidates(srg, ops, builder)
        run_s = sum((_cost(srg, node).time_s for node in ops.nodes), 0.0)
        best, refusal = self._choose(candidates, run_s, context)
        if best is None:
            return _take_whole(srg, ops, refusal, context)
        reason = Reason(
            kind=ReasonKind.SPLIT,
            detail=f"{len(best.regions)} regions, {best.distinct} distinct, found {best.how}: saves about "
            f"{format_seconds(best.saved_s)} of compiling, costs about {format_seconds(best.cost_s)} a call",
            runner_up="one region",
            runner_up_cost=f"{format_seconds(best.saved_s)} more to compile",
        )
        return _take(srg, best.regions, reason, context)

    def _candidates(self, srg: SRG, ops: OpList, builder: _Builder) -> list[_Candidate]:
        proposals = [(labels, names, "by module stack") for labels, names in by_module_stack(ops.nodes)]
        found = by_structure(srg, ops.nodes, self.min_ops)
        if found is not None:
            proposals.append((*found, "by repeated structure"))
        partitions: dict[tuple[int, ...], tuple[dict[int, str], Labels, str]] = {}
        for labels, names, how in proposals:
            for groups in all_groups(ops, labels):
                partitions.setdefault(groups, (names, labels, how))
        candidates = []
        for groups, (names, labels, how) in partitions.items():
            regions = builder.regions(groups, labels, names)
            if regions is not None:
                candidates.append(builder.judge(regions, how))
        return candidates

    def _choose(
        self, candidates: Sequence[_Candidate], run_s: float, context: PassContext
    ) -> tuple[_Candidate | None, str]:
        repeating = [c for c in candidates if c.distinct < len(c.regions)]
        if not repeating:
            return None, "no part of the graph repeats"
        cheap = [c for c in repeating if c.cost_s <= self.max_boundary_share * run_s]
        if not cheap:
            least = min(c.cost_s for c in repeating)
            return None, (
                f"the cheapest cut costs {format_seconds(least)} a call, more than {self.max_boundary_share:.0%} "
                f"of the estimated {format_seconds(run_s)}"
            )
        best = max(cheap, key=lambda c: c.saved_s - c.cost_s * context.expected_calls)
        if best.saved_s <= best.cost_s * context.expected_calls:
            return None, f"over {context.expected_calls} calls the best cut costs more than it saves"
        return best, ""


def _whole(why: str) -> Reason:
    return Reason(kind=ReasonKind.WHOLE, detail=f"one region: {why}")


def _take_whole(srg: SRG, ops: OpList, why: str, context: PassContext) -> PassResult:
    return _take(srg, (_whole_region(srg, ops),), _whole(why), context)


def _take(srg: SRG, regions: tuple[Region, ...], reason: Reason, context: PassContext) -> PassResult:
    srg.regions = regions if context.pricing is None else priced_regions(srg, regions, context.pricing)
    srg.uncut = srg.memory = None
    sizes = srg.fact(size_ops)  # each region that needs one has it: their records name none
    for region in regions:
        for node in map(srg.node, region.nodes):
            if node not in sizes:
                srg.update(node, region=region.index)
    nameless = [region for region in regions if not region.structural_hash]
    return PassResult(modified=True, reasons=(reason, *(_uncacheable(srg, region) for region in nameless)))


def priced_regions(srg: SRG, regions: Sequence[Region], pricing: Pricing) -> tuple[Region, ...]:
    """The regions with what the engines would take for them; regions that repeat are asked about once."""
    known: dict[str, Region] = {}
    made = []
    for region in regions:
        twin = known.get(region.structural_hash) if region.structural_hash else None
        if twin is None:
            one = priced(region, part_of(srg, region.nodes), pricing, pricing.engines)
            known[region.structural_hash] = one
        else:
            one = replace(region, cost=twin.cost, times=twin.times)
        made.append(one)
    return tuple(made)


def _uncacheable(srg: SRG, region: Region) -> Reason:
    """Why a region has no structural hash: found by writing its canonical form once more."""
    nodes, inputs, outputs = ([srg.node(n) for n in names] for names in (region.nodes, region.inputs, region.outputs))
    try:
        canonical_form(nodes, inputs, outputs)
    except NoCanonicalForm as error:
        return Reason(kind=ReasonKind.UNCACHEABLE, detail=str(error), node=region.label)
    raise AssertionError(f"region {region.label!r} has a canonical form and no hash")


def _cost(srg: SRG, node: Node) -> Cost:
    return srg.record(node).cost or Cost()


def whole_region(srg: SRG) -> Region | None:
    """The whole graph as one region, whatever the graph was cut into; None if it has no ops."""
    ops = srg.fact(op_list)
    return _whole_region(srg, ops) if ops.nodes else None


def _whole_region(srg: SRG, ops: OpList) -> Region:
    """One region with the graph's own signature, so that a call passes straight through."""
    sources = [n for n in srg.nodes if n.op == "get_attr" and srg.record(n).outputs]
    inputs = (*srg.inputs, *sources)
    outputs = tuple(n for n in srg.output.all_input_nodes if n.op == "call_function")
    return region_of(srg, 0, "whole graph", ops.nodes, inputs, outputs)


def region_of(
    srg: SRG,
    index: int,
    label: str,
    nodes: Sequence[Node],
    inputs: Sequence[Node],
    outputs: Sequence[Node],
) -> Region:
    try:
        digest = srg.fact(Digests).of(nodes, inputs, outputs)
    except NoCanonicalForm:
        digest = ""
    records = [srg.record(node) for node in nodes]
    phases = Counter([record.phase for record in records if record.phase is not None])
    return Region(
        index=index,
        label=label,
        nodes=tuple(node.name for node in nodes),
        inputs=tuple(node.name for node in inputs),
        outputs=tuple(node.name for node in outputs),
        structural_hash=digest,
        phase=max(phases, key=phases.__getitem__, default=None),
        cost=total([record.cost for record in records if record.cost is not None]),
    )


class _Builder:
    """Makes regions of a partition, and judges them."""

    def __init__(self, srg: SRG, ops: OpList, mentioned: Mentions) -> None:
        self._srg = srg
        self._ops = ops
        self._symbols = srg.fact(symbol_sources)
        self._sizes = srg.fact(size_ops)
        self._mentioned = mentioned
        # Candidates overlap: most regions of one are regions of another.
        self._known: dict[tuple[Node, ...], Region | None] = {}

    def regions(
        self, groups: Sequence[int], labels: Sequence[int | None], names: dict[int, str]
    ) -> tuple[Region, ...] | None:
        """The regions of a partition; None if one of them could not stand alone."""
        members: list[list[Node]] = [[] for _ in range(max(groups) + 1)]
        units: list[Counter[int]] = [Counter() for _ in members]
        for node, group, label in zip(self._ops.nodes, groups, labels, strict=True):
            members[group].append(node)
            if label is not None:
                units[group][label] += 1
        titles = []
        for place, unit in enumerate(units):
            outer = "epilogue" if place == len(units) - 1 else "between"
            titles.append(names[max(unit, key=unit.__getitem__)] if unit else "prologue" if place == 0 else outer)
        made = [self._made(members[place], titles[place]) for place in range(len(members))]
        if any(region is None for region in made):
            return None
        return self._merge([region for region in made if region is not None and region.nodes])

    def _made(self, nodes: Sequence[Node], label: str) -> Region | None:
        members = tuple(nodes)
        if members not in self._known:
            inner = with_sizes(members, self._sizes, self._srg.output)
            inputs, outputs = boundary(self._srg, inner, self._symbols, self._sizes, self._mentioned)
            alone = not unbound_symbols(self._srg, inner, inputs, self._mentioned)
            made = region_of(self._srg, 0, label, inner, inputs, outputs) if alone else None
            self._known[members] = made
        region = self._known[members]
        return replace(region, label=label) if region is not None else None

    def _merge(self, regions: Sequence[Region]) -> tuple[Region, ...]:
        """Join neighbours that repeat nothing: a boundary between them saves nothing."""
        counts = Counter(region.structural_hash for region in regions)
        merged: list[Region] = []
        joined: list[bool] = []
        for region in regions:
            alone = counts[region.structural_hash] == 1 or not region.structural_hash
            if merged and alone and joined[-1]:
                nodes = [self._srg.node(name) for name in dict.fromkeys((*merged[-1].nodes, *region.nodes))]
                both = self._made(nodes, f"{merged[-1].label.split(' … ')[0]} … {region.label}")
                if both is not None:
                    merged[-1] = both
                    continue
            merged.append(region)
            joined.append(alone)
        return tuple(replace(region, index=index) for index, region in enumerate(merged))

    def judge(self, regions: tuple[Region, ...], how: str) -> _Candidate:
        seen: set[str] = set()
        compile_s = 0.0
        for region in regions:
            if not region.structural_hash or region.structural_hash not in seen:
                seen.add(region.structural_hash)
                compile_s += FIXED_S + PER_OP_S * len(region.nodes)
        whole_s = FIXED_S + PER_OP_S * len(self._ops.nodes)
        crossing = sum(self._unfused_bytes(name) for region in regions for name in region.outputs)
        cost_s = (len(regions) - 1) * CALL_S + 2 * crossing / BANDWIDTH_BYTES_S
        return _Candidate(regions=regions, how=how, saved_s=whole_s - compile_s, cost_s=cost_s)

    def _unfused_bytes(self, name: str) -> int:
        """Bytes of a crossing value that would have stayed in registers without the cut."""
        node = self._srg.node(name)
        record = self._srg.record(node)
        if record.is_view or _materialised(record.op) or self._srg.output in node.users:
            return 0
        # A value that a matmul or a reduction also reads is written to memory in any case.
        if any(_materialised(self._srg.record(user).op) for user in node.users) or len(node.users) > 1:
            return 0
        return record.nbytes


def _materialised(op: str) -> bool:
    return any(mark in op for mark in _MATERIALISED)
