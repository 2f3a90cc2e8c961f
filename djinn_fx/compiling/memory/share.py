"""A graph's share of the memory budget: which engines take part, and what is told of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch.fx import GraphModule

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.entry.contenders import contenders
from djinn_fx.compiling.readiness import GraphHandle, note_planned, others_of
from djinn_fx.costmodels.memory.plan import memory_plan
from djinn_fx.dispatch.budget import Fitting, PlannedMemory, evict, need_of
from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import InfeasibleError
from djinn_fx.passes.base import Pass, PassContext, run_passes
from djinn_fx.passes.memory.order_ops import OrderOps
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.budget import Limit, WithinBudget
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.lower import lower
from djinn_fx.srg.memory import MemoryPlan
from djinn_fx.srg.record import GraphKind, Residency


def within_budget(
    captured: CapturedGraph, settings: Settings, handle: GraphHandle | None, kept: frozenset[str], slices: int
) -> tuple[CapturedGraph, Settings, list[PlannedMemory]]:
    """The graph with Reasons, the settings without engines that there is no room for, and its share on each device.

    Args:
        captured: the graph, planned.
        settings: in force.
        handle: of its model; its share is put down there.
        kept: names of the inputs that the model keeps.
        slices: of the batch in which it runs.

    Raises:
        InfeasibleError: it does not run even on its own ops.
    """
    reasons, planned, kind = list[Reason](), list[PlannedMemory](), captured.srg.kind
    plan = captured.plan.memory if captured.plan.memory is not None else memory_plan(captured.srg)
    for device, budget in settings.memory_bytes.items():
        if device in plan.devices:
            need = replace(need_of(plan, device, kept, settings, kind is GraphKind.INFERENCE), slices=slices)
            fitting = Fitting(need, others_of(handle, need), budget, settings, contenders(settings, kind, device))
            planned.append(note_planned(handle, fitting))
            settings, reasons = fitting.settings, [*reasons, *fitting.reasons]
    told = replace(captured.plan, reasons=(*captured.plan.reasons, *reasons))
    return replace(captured, plan=told), settings, planned


def or_infeasible(captured: CapturedGraph, fit: Callable[[], CapturedGraph]) -> CapturedGraph:
    """The graph as it fits; where it does not, with a Reason that says so, for a report."""
    try:
        return fit()
    except InfeasibleError as error:
        refused = Reason(kind=ReasonKind.INFEASIBLE, detail=str(error))
        return replace(captured, plan=replace(captured.plan, reasons=(*captured.plan.reasons, refused)))


def planned_memory(
    graph: GraphModule, kind: GraphKind, residency: Mapping[str, Residency], passes: Sequence[Pass]
) -> MemoryPlan:
    """The memory plan of a graph as it will run: of the passes, those run that change it.

    Args:
        graph: of ATen ops.
        kind: of the graph.
        residency: what its inputs are.
        passes: that will run on it.
    """
    srg = lower(graph, kind, residency)
    run_passes(srg, [*(one for one in passes if one.name == OrderOps.name), PlanMemory()], PassContext())
    assert srg.memory is not None, "plan-memory makes it"
    return srg.memory


def held_to_budget(
    run: RegionCallable, srg: SRG, planned: Sequence[PlannedMemory], callables: Sequence[RegionCallable]
) -> RegionCallable:
    """A graph's callable that looks whether it fits at each new set of sizes; itself where sizes do not differ."""
    limits = {
        one.need.peak.device: Limit(budget=one.budget, beside=one.foretold - one.need.peak.nbytes, copies=one.copies)
        for one in planned
    }
    held = WithinBudget(run, srg, limits, functools.partial(evict, callables))
    return held if planned and held.needed else run
