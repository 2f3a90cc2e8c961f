"""How a joint graph is divided into forward and backward, as the settings have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch.fx import GraphModule

from djinn_fx.compiling.memory.share import planned_memory
from djinn_fx.compiling.pricing import pricing_for
from djinn_fx.compiling.training.partition import BudgetPartition
from djinn_fx.passes.base import Pass, PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.settings.table import Settings
from djinn_fx.srg.lower import lower
from djinn_fx.srg.memory import MemoryPlan
from djinn_fx.srg.record import GraphKind, Residency

ResidencyOf = Callable[[GraphKind, GraphModule], dict[str, Residency]]


def partition_of(settings: Settings, passes: Sequence[Pass], residency_of: ResidencyOf) -> BudgetPartition:
    """The ``partition_fn`` that these settings ask for.

    Args:
        settings: in force.
        passes: that will run on either graph; those that change its memory run on each candidate.
        residency_of: tells what a graph's inputs are; asked for the forward graph before the backward graph.
    """

    def plan_of(kind: GraphKind, graph: GraphModule) -> MemoryPlan:
        return planned_memory(graph, kind, residency_of(kind, graph), passes)

    def times_of(joint: GraphModule) -> Mapping[str, float]:
        srg = lower(joint, GraphKind.FORWARD)
        devices = [meta.device for node in srg.inputs for meta in srg.record(node).outputs]
        device = devices[0] if devices else "cpu"
        run_passes(srg, [EstimateCost()], PassContext(device=device, pricing=pricing_for(settings, device, passes)))
        return {node.name: cost.time_s for node in srg.ops if (cost := srg.record(node).cost) is not None}

    return BudgetPartition(settings.activation_budget_bytes, plan_of, times_of)
