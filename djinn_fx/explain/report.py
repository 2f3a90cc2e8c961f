"""The report: what was captured and decided, as frozen plain data with a JSON form.

Field names ending in ``seconds`` hold measured times; everything else is the same on every run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from djinn_fx.dispatch.contests.pays import EXPERIENCE
from djinn_fx.engines.base import Rounding
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.memory import MemoryPeak
from djinn_fx.srg.plan import EngineTime, Placement, Plan, Region, Transfer
from djinn_fx.srg.record import Cost, Residency

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CapturedGraph
    from djinn_fx.costmodels.choose import Pricing
    from djinn_fx.dispatch.region import RegionBuild

SCHEMA = "djinn_fx.explain/3"
_SHORT_HASH = 12


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that was found. ``mode`` is ``inference`` or ``training``."""

    file: str
    attr: str
    rule: str
    name: str
    mode: str
    parameter_count: int
    parameter_bytes: int


@dataclass(frozen=True, kw_only=True)
class BuildInfo:
    """How a region's code was obtained: from memory, from the store, built now, or eager as a fallback."""

    engine: str
    outcome: str
    key: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RegionInfo:
    """One region.

    ``repeats``: how many regions of the graph share its artefact, itself included. ``pays_after_calls``: after how many
    calls of the graph building it has paid for itself, by estimate; None if it never does, or nothing is built.
    ``times``: what engines are expected to take, the one that will serve it first.
    """

    index: int
    label: str
    ops: int
    inputs: int
    outputs: int
    structural_hash: str
    repeats: int
    phase: str | None
    device: str
    cost: Cost
    times: tuple[EngineTime, ...] = ()
    pays_after_calls: int | None = None
    build: BuildInfo | None = None


@dataclass(frozen=True, kw_only=True)
class PassInfo:
    """One pass that ran."""

    name: str
    seconds: float
    modified: bool


@dataclass(frozen=True, kw_only=True)
class ReasonGroup:
    """Equal reasons, and the nodes or regions they are about."""

    kind: str
    detail: str
    count: int
    nodes: tuple[str, ...]
    runner_up: str | None = None
    runner_up_cost: str | None = None


@dataclass(frozen=True, kw_only=True)
class PricingInfo:
    """Where estimated times come from.

    Attributes:
        model: name of the cost model.
        device: row that is priced for.
        source: where the row's figures are from.
        profile: when the calibration was made that the model stands on, ISO 8601; None if it stands on none.
        noise: of that calibration: how far times of one work differ, as shares, by name.
        problem: why a profile that there is, is not used.
    """

    model: str
    device: str
    source: str
    profile: str | None = None
    noise: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """One captured graph.

    Sizes in bytes. ``memory``: the peak of each device as the graph's own ops run, what runs then and the biggest
    values. ``placement``: which device has what, where there is a choice. ``times``: what engines
    are expected to take for the whole graph, the fastest first.
    ``provenances``: how many ops' times come from where. ``unpriced`` maps ops without a cost to their number,
    ``unpriced_share`` is their share of all ops.
    """

    kind: str
    phase: str | None
    ops: int
    distinct_regions: int
    regions: tuple[RegionInfo, ...]
    phases: dict[str, int]
    residency_bytes: dict[str, int]
    peak_bytes: int
    memory: tuple[MemoryPeak, ...]
    cost: Cost
    pricing: PricingInfo | None
    times: tuple[EngineTime, ...]
    provenances: dict[str, int]
    unpriced: dict[str, int]
    unpriced_share: float
    transfers: tuple[Transfer, ...]
    passes: tuple[PassInfo, ...]
    reasons: tuple[ReasonGroup, ...]
    placement: Placement | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """The built model against eager.

    ``equal`` is None where they cannot be compared; ``note`` says why. ``rounding``: by engine that may round, how far
    its answer was from float64's. ``live_bytes``: the most bytes of tensors that a further call had in memory, None
    where none was counted; ``foretold_bytes``: the peak of the graphs' own ops. ``call_s``, ``eager_s``: seconds of a
    settled call of the built model and of eager; None where they were not timed.
    """

    equal: bool | None
    max_difference: float
    rtol: float
    atol: float
    note: str = ""
    rounding: dict[str, Rounding] = field(default_factory=dict)
    live_bytes: int | None = None
    foretold_bytes: int = 0
    call_s: float | None = None
    eager_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything explain has to say about one model.

    ``values``: whether tensors had values; without, only their sizes and types were known. ``partial``: the line beyond
    which nothing is known, since it depends on values; None if all is.
    """

    schema: str
    model: ModelInfo
    versions: dict[str, str]
    graphs: tuple[GraphInfo, ...]
    graph_breaks: tuple[str, ...]
    check: Check | None = None
    values: bool = True
    partial: str | None = None

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2)


def graph_info(captured: CapturedGraph, engine: str = EAGER) -> GraphInfo:
    """What is to be said about one captured graph whose regions are for this engine."""
    srg, plan = captured.srg, captured.plan
    records = [srg.record(node) for node in srg.ops]
    unpriced = _unpriced(srg)
    return GraphInfo(
        kind=srg.kind.value,
        phase=plan.phase.value if plan.phase else None,
        ops=len(records),
        distinct_regions=plan.distinct_regions,
        regions=_regions(plan, captured.builds, engine),
        phases=dict(Counter(record.phase.value if record.phase else "unknown" for record in records)),
        residency_bytes=_residency_bytes(srg),
        peak_bytes=plan.peak_bytes,
        memory=plan.memory.peaks() if plan.memory is not None else (),
        cost=plan.cost,
        pricing=_pricing_info(captured.pricing),
        times=plan.times,
        provenances=dict(Counter(record.cost.provenance for record in records if record.cost is not None)),
        unpriced=unpriced,
        unpriced_share=sum(unpriced.values()) / max(1, len(records)),
        transfers=plan.transfers,
        placement=plan.placement,
        passes=tuple(PassInfo(name=t.name, seconds=t.seconds, modified=t.modified) for t in captured.pass_timings),
        reasons=group_reasons(_all_reasons(captured)),
    )


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
            detail=detail,
            count=len(nodes),
            nodes=tuple(node for node in nodes if node is not None),
            runner_up=runner_up,
            runner_up_cost=runner_up_cost,
        )
        for (kind, detail, runner_up, runner_up_cost), nodes in sorted(groups.items(), key=lambda g: order[g[0][0]])
    )


def _all_reasons(captured: CapturedGraph) -> Iterable[Reason]:
    yield from captured.plan.reasons
    yield from captured.srg.reasons
    yield from captured.reasons
    for build in captured.builds:
        yield from build.reasons
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


def _regions(plan: Plan, builds: Iterable[RegionBuild], engine: str) -> tuple[RegionInfo, ...]:
    shared = Counter(region.structural_hash for region in plan.regions)
    by_region = {build.region: build for build in builds}
    return tuple(
        RegionInfo(
            index=region.index,
            label=region.label,
            ops=len(region.nodes),
            inputs=len(region.inputs),
            outputs=len(region.outputs),
            structural_hash=region.structural_hash[:_SHORT_HASH],
            repeats=(repeats := shared[region.structural_hash] if region.structural_hash else 1),
            phase=region.phase.value if region.phase else None,
            device=region.device,
            cost=region.cost,
            times=region.times,
            pays_after_calls=_pays_after(region, repeats, engine),
            build=_build_info(by_region.get(region.index)),
        )
        for region in plan.regions
    )


def _pays_after(region: Region, repeats: int, engine: str) -> int | None:
    if engine == EAGER:
        return None
    share = region.saved_share(engine)
    executions = EXPERIENCE.estimate(engine, len(region.nodes), region.eager_s, share).break_even
    return None if executions is None else -(-executions // repeats)


def _build_info(build: RegionBuild | None) -> BuildInfo | None:
    if build is None:
        return None
    return BuildInfo(
        engine=build.engine, outcome=build.outcome, key=(build.key or "")[:_SHORT_HASH], seconds=build.seconds
    )


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
