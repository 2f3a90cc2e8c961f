"""One region on its way to a callable: cut out of its graph, what has been decided so far, and how it came out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from djinn_fx.dispatch.memory import Loaded
from djinn_fx.engines.base import RegionGraph, as_runner
from djinn_fx.engines.keys import Guards, device_order, symbol_places, symbolic_inputs
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.effects import written_nodes
from djinn_fx.srg.extract import extract, input_value
from djinn_fx.srg.form.hashing import canonical_form
from djinn_fx.srg.form.moved import move
from djinn_fx.srg.graph import META_KEY, SRG
from djinn_fx.srg.memory import MemoryPlan
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.srg.record import Residency
from djinn_fx.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class RegionBuild:
    """How one region got its callable.

    Attributes:
        region: index of the region.
        engine: name of the engine that runs it.
        outcome: ``memory``, ``store``, ``built``, ``fallback``; ``waiting`` if a better engine is still to be built;
            ``shared`` with an earlier region of the graph.
        seconds: spent on it.
        key: of the artefact; empty if it is not kept. Of a waiting region: the key it will have on disk.
        guards: expression over the region's symbolic inputs under which the artefact is valid, if any.
        alone: whether the artefact runs without the region's own ops beside it to be checked against.
        checked: whether its first answer is compared with eager's, or was before.
        reasons: misses, refusals, fallbacks.
    """

    region: int
    engine: str
    outcome: str
    seconds: float
    key: str = ""
    guards: str | None = None
    alone: bool = True
    checked: bool = False
    reasons: tuple[Reason, ...] = ()


class RegionWork:
    """One region on its way to a callable: what it is, and what has been decided so far."""

    def __init__(self, srg: SRG, plan: Plan, region: Region, symints: Sequence[torch.SymInt]) -> None:
        self.region, self.symints = region, symints
        self.places = symbol_places(region_values(srg, region))
        self.graph = region_graph(srg, region)
        same = [one for one in plan.regions if one.structural_hash == region.structural_hash]
        self.repeats = len(same) if region.structural_hash else 1
        #: Bytes that are in memory besides what it takes itself, where most are; None: not planned.
        self.beside = (
            max((bytes_beside(srg.memory, one) for one in same or [region]), default=0) if srg.memory else None
        )
        self.reasons: list[Reason] = []
        #: Whether the answers of what it runs on are compared with eager's, or were before.
        self.checked = False
        self._began = time.perf_counter()

    @classmethod
    def of(cls, srg: SRG, plan: Plan, region: Region) -> RegionWork:
        """A region as it is now."""
        return cls(srg, plan, region, symbolic_inputs(region_values(srg, region)))

    def holds(self, guards: Guards) -> bool:
        """Whether size facts are true here; the graph is then guarded by them."""
        return guards.hold(self.symints)

    def note(self, reason: Reason | None) -> None:
        """Keep a reason, if there is one."""
        if reason is not None:
            self.reasons.append(reason)

    def build(self, loaded: Loaded | None, outcome: str) -> RegionBuild:
        """How it came out."""
        return RegionBuild(
            region=self.region.index,
            engine=loaded.engine if loaded is not None else EAGER,
            outcome=outcome,
            seconds=time.perf_counter() - self._began,
            key=loaded.key if loaded is not None else "",
            guards=loaded.guards.expression if loaded is not None else None,
            alone=loaded is None or not as_runner(loaded.run).wants_reference,
            checked=self.checked,
            reasons=tuple(self.reasons),
        )


def bytes_beside(memory: MemoryPlan, region: Region) -> int:
    """What is on the CPU while a region runs and is not made by it: arguments, weights, values for later regions."""
    names = set(region.nodes)
    begins = next((place for place, step in enumerate(memory.steps) if step.name in names), 0)
    rows = (
        row for row in memory.rows if row.device == "cpu" and (row.given or row.start < begins) and row.end > begins
    )
    return sum(row.nbytes for row in rows)


def why_no_room(work: RegionWork, loaded: Loaded, settings: Settings) -> Reason | None:
    """Why an artefact cannot run within the memory budget: what it takes, as it says itself, is more than is left."""
    budget = settings.memory_bytes.get("cpu")
    if budget is None or work.beside is None or loaded.live_bytes is None or work.beside + loaded.live_bytes <= budget:
        return None
    left = format_bytes(max(0, budget - work.beside))
    detail = (
        f"{loaded.engine}: it takes {format_bytes(loaded.live_bytes)}, of the memory budget for cpu {left} are left"
    )
    return Reason(kind=ReasonKind.BUDGET, detail=detail, node=work.region.label)


def built_again(build: RegionBuild, region: Region) -> RegionBuild:
    """How a region came about that has its twin's callable."""
    told = build.outcome in ("fallback", "waiting")
    return replace(
        build,
        region=region.index,
        outcome=build.outcome if told else "shared",
        seconds=0.0,
        reasons=build.reasons if build.outcome == "fallback" else (),
    )


def region_graph(srg: SRG, region: Region) -> RegionGraph:
    """A region cut out of its graph, ready for an engine, and for the device it is on."""
    if srg.home not in (None, region.device):
        return _region_elsewhere(srg, region)
    canonical: Any = None
    if region.structural_hash:
        nodes, inputs, outputs = (
            [srg.node(name) for name in names] for names in (region.nodes, region.inputs, region.outputs)
        )
        canonical = canonical_form(nodes, inputs, outputs)
    return RegionGraph(
        gm=extract(srg, region),
        structural_hash=region.structural_hash,
        canonical=canonical,
        example_inputs=region_values(srg, region),
        label=region.label,
        kind=srg.kind.value,
        weights=_weights(srg, region),
    )


def _region_elsewhere(srg: SRG, region: Region) -> RegionGraph:
    """A region that runs on another device than the graph's tensors are on."""
    assert srg.home is not None, "asked for where there is one"
    gm = extract(srg, region)
    placeholders = gm.graph.find_nodes(op="placeholder")
    for placeholder, name in zip(placeholders, region.inputs, strict=True):
        placeholder.meta[META_KEY] = srg.record(srg.node(name))
    move(gm, srg.home, region.device)
    ops = [node for node in gm.graph.nodes if node.op.startswith("call_")]
    outputs = gm.graph.output_node().all_input_nodes
    return RegionGraph(
        gm=gm,
        structural_hash=region.structural_hash,
        canonical=canonical_form(ops, placeholders, outputs) if region.structural_hash else None,
        example_inputs=tuple(node.meta["val"] for node in placeholders),
        label=region.label,
        kind=srg.kind.value,
        weights=_weights(srg, region),
    )


def _weights(srg: SRG, region: Region) -> tuple[int, ...]:
    """Places of the inputs that are parameters, buffers or constants and are not written anywhere in the graph."""
    written = {one for node in srg.nodes for one in written_nodes(node)}
    inputs = [srg.node(name) for name in region.inputs]
    kinds = (Residency.PARAMETER, Residency.BUFFER, Residency.CONSTANT)
    return tuple(
        place for place, node in enumerate(inputs) if srg.record(node).residency in kinds and node not in written
    )


def region_values(srg: SRG, region: Region) -> tuple[Any, ...]:
    """The compile-time values of a region's inputs."""
    return tuple(input_value(srg, srg.node(name)) for name in region.inputs)


def devices_of(srg: SRG, region: Region) -> tuple[str, ...]:
    """The devices of a region's values, in their order."""
    return device_order(input_value(srg, srg.node(name)) for name in (*region.inputs, *region.nodes))


def distinct_first(regions: Sequence[Region]) -> Iterator[Region]:
    """One of each kind of regions."""
    seen: set[str] = set()
    for region in regions:
        if not region.structural_hash or region.structural_hash not in seen:
            seen.add(region.structural_hash)
            yield region
