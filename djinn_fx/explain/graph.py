"""What is to be said about one captured graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from djinn_fx.costmodels.laws.build_time import PLAN_PER_OP_S
from djinn_fx.dispatch.contests.pays import Experience
from djinn_fx.explain.detail.flow import edges
from djinn_fx.explain.detail.memory import curves, memory_of
from djinn_fx.explain.detail.sources import without_way
from djinn_fx.explain.detail.spent import spent
from djinn_fx.explain.detail.timeline import timeline
from djinn_fx.explain.detail.values import tokens, values
from djinn_fx.explain.report import SHORT_HASH, Forecast, GraphInfo, PassInfo, PricingInfo, ReasonGroup, RegionInfo
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.srg.record import OpRecord, Residency

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CapturedGraph
    from djinn_fx.costmodels.choose import Pricing


def graph_info(captured: CapturedGraph, engine: str = EAGER) -> GraphInfo:
    """What is to be said about one captured graph whose regions are for this engine."""
    srg, plan = captured.srg, captured.plan
    records = [srg.record(node) for node in srg.ops]
    unpriced = _unpriced(srg)
    memory = memory_of(srg, plan)
    peaks = memory.peaks() if memory is not None else ()
    return GraphInfo(
        kind=srg.kind.value,
        phase=plan.phase.value if plan.phase else None,
        ops=len(records),
        distinct_regions=plan.distinct_regions,
        regions=_regions(plan, engine),
        phases=dict(Counter(map(_phase_text, records))),
        residency_bytes=_residency_bytes(srg),
        peak_bytes=max((peak.nbytes for peak in peaks), default=plan.peak_bytes),
        memory=peaks,
        cost=plan.cost,
        pricing=_pricing_info(captured.pricing),
        times=plan.times,
        provenances=dict(Counter(record.cost.provenance for record in records if record.cost is not None)),
        unpriced=unpriced,
        unpriced_share=sum(unpriced.values()) / max(1, len(records)),
        transfers=plan.transfers,
        placement=plan.placement,
        passes=tuple(PassInfo(name=t.name, modified=t.modified) for t in captured.pass_timings),
        reasons=group_reasons(_planned(captured)),
        timeline=timeline(srg, plan),
        curves=curves(memory) if memory is not None else (),
        edges=edges(srg, plan),
        spent=spent(srg, captured.pricing),
        values=values(srg, [*(row.name for peak in peaks for row in peak.biggest), *(t.value for t in plan.transfers)]),
        tokens=tokens(srg),
        forecast=forecast(plan, len(records), engine),
    )


def _phase_text(record: OpRecord) -> str:
    """Its phase, and what it reads if that is known: ``encode/vision``."""
    phase = record.phase.value if record.phase else "unknown"
    return f"{phase}/{record.modality.value}" if record.modality else phase


def group_reasons(reasons: Iterable[Reason]) -> tuple[ReasonGroup, ...]:
    """Group reasons that differ only in the node they are about; a reason met twice counts once."""
    groups: dict[tuple[ReasonKind, str, str | None, str | None], list[str | None]] = {}
    for reason in dict.fromkeys(reasons):
        key = (reason.kind, reason.detail, reason.runner_up, reason.runner_up_cost)
        groups.setdefault(key, []).append(reason.node)
    order = {kind: position for position, kind in enumerate(ReasonKind)}
    return tuple(
        ReasonGroup(
            kind=kind.value,
            detail=without_way(detail),
            count=len(nodes),
            nodes=tuple(node for node in nodes if node is not None),
            runner_up=runner_up,
            runner_up_cost=runner_up_cost,
        )
        for (kind, detail, runner_up, runner_up_cost), nodes in sorted(groups.items(), key=lambda g: order[g[0][0]])
    )


def _planned(captured: CapturedGraph) -> Iterable[Reason]:
    """What was decided before anything was built."""
    whole = len(captured.plan.regions) == 1
    for reason in (*captured.plan.reasons, *captured.srg.reasons):
        if whole and reason.kind is ReasonKind.SPLIT:  # the plan in regions takes part in the trial too
            reason = replace(reason, detail=f"the plan that competes with one region has {reason.detail}")
        yield reason
    for node in captured.srg.nodes:
        yield from captured.srg.record(node).reasons


def _pricing_info(pricing: Pricing) -> PricingInfo:
    profile = pricing.profile
    return PricingInfo(
        model=pricing.model.name,
        device=pricing.device.name,
        source=pricing.device.source,
        profile=profile.made if profile is not None else None,
        noise=dict(profile.noise) if profile is not None else {},
        problem=pricing.problem,
    )


def _regions(plan: Plan, engine: str) -> tuple[RegionInfo, ...]:
    shared = Counter(region.structural_hash for region in plan.regions)
    return tuple(
        RegionInfo(
            index=region.index,
            label=region.label,
            ops=len(region.nodes),
            inputs=len(region.inputs),
            outputs=len(region.outputs),
            structural_hash=region.structural_hash[:SHORT_HASH],
            repeats=(repeats := shared[region.structural_hash] if region.structural_hash else 1),
            phase=region.phase.value if region.phase else None,
            device=region.device,
            cost=region.cost,
            times=region.times,
            pays_after_calls=_pays_after(region, repeats, engine),
        )
        for region in plan.regions
    )


def _pays_after(region: Region, repeats: int, engine: str) -> int | None:
    if engine == EAGER:
        return None
    share = region.saved_share(engine)
    # By the tables alone, not by what this process happened to build before: the same in every run.
    executions = Experience().estimate(engine, len(region.nodes), region.eager_s, share).break_even
    return None if executions is None else -(-executions // repeats)


def _residency_bytes(srg: SRG) -> dict[str, int]:
    """Bytes by residency; memory that several values share counts once, with the value that came first."""
    totals = {residency.value: 0 for residency in Residency}
    seen: set[int] = set()
    for node in srg.nodes:
        record = srg.record(node)
        for meta in record.outputs if node.op != "output" else ():
            if meta.storage not in seen:
                seen.add(meta.storage)
                totals[record.residency.value] += meta.nbytes
    return totals


def _unpriced(srg: SRG) -> dict[str, int]:
    records = [srg.record(node) for node in srg.ops]
    ops = Counter(
        record.op
        for record in records
        if (record.cost is not None and record.cost.provenance == "unpriced")
        or any(reason.kind is ReasonKind.UNPRICED for reason in record.reasons)
    )
    return dict(sorted(ops.items(), key=lambda item: (-item[1], item[0])))


def forecast(plan: Plan, ops: int, engine: str) -> Forecast:
    """What the first call and later ones will cost and gain.

    Args:
        plan: of the graph.
        ops: how many it has.
        engine: the one that regions are for, where none competes for the graph.
    """
    known = Experience()
    competing = [one.engine for one in plan.times if one.engine not in (EAGER, engine)]
    plan_s = PLAN_PER_OP_S * ops
    if competing:
        first, eager = plan.times[0], next((one for one in plan.times if one.engine == EAGER), None)
        told = eager is not None and eager.tells and first.tells
        saving_s = eager.time_s - first.time_s if eager is not None and told else None
        build_s = known.build_seconds(competing[0], ops)
        return Forecast(engine=competing[0], plan_s=plan_s, build_s=build_s, saving_s=saving_s)
    if engine == EAGER:
        return Forecast(engine=EAGER, plan_s=plan_s, build_s=0.0, saving_s=None)
    distinct = {region.structural_hash or str(region.index): region for region in plan.regions}.values()
    build_s = sum(known.build_seconds(engine, len(region.nodes)) for region in distinct)
    saving_s = sum(
        known.estimate(engine, len(region.nodes), region.eager_s, region.saved_share(engine)).saving_s
        for region in plan.regions
    )
    return Forecast(engine=engine, plan_s=plan_s, build_s=build_s, saving_s=saving_s)
