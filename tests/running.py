"""Cutting a graph by labels and running it region by region, to compare it with the graph run as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.passes.base import PassContext
from djinn_fx.passes.cutting.partition import op_list, to_groups
from djinn_fx.passes.order import Order
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import program_of
from djinn_fx.srg import SRG, Plan, Region
from djinn_fx.srg.extract import boundary, extract, input_value, symbol_sources
from djinn_fx.srg.verify import verify


def cut_by_labels(srg: SRG, labels: Sequence[int | None], *, join_gaps: bool = True) -> tuple[int, ...]:
    """Turn labels into regions and set them, in a verified order. Returns the group of each op."""
    ops = op_list(srg)
    groups = to_groups(ops, labels, join_gaps=join_gaps)
    symbols = symbol_sources(srg)
    regions = []
    for group in range(max(groups, default=-1) + 1):
        nodes = [node for node, mine in zip(ops.nodes, groups, strict=True) if mine == group]
        inputs, outputs = boundary(srg, nodes, symbols)
        names = ([node.name for node in part] for part in (nodes, inputs, outputs))
        members, reads, gives = map(tuple, names)
        regions.append(
            Region(index=group, label=str(group), nodes=members, inputs=reads, outputs=gives, structural_hash="")
        )
        for node in nodes:
            srg.update(node, region=group)
    srg.regions = tuple(regions)
    order_regions(srg)
    return groups


def order_regions(srg: SRG) -> None:
    """Run the pass ``order`` and verify what it promises."""
    Order().run(srg, PassContext())
    verify(srg, ["regions-partition", "order-valid"])


def plan_in_order(srg: SRG) -> Plan:
    """The plan of a graph that is cut."""
    return Plan(regions=srg.regions, order=srg.order or tuple(range(len(srg.regions))))


def run_by_regions(srg: SRG, arguments: Sequence[Any], order: Sequence[int] | None = None) -> list[Any]:
    """Run a cut graph region by region, each with the eager engine."""
    plan = plan_in_order(srg)
    if order is not None:
        plan = Plan(regions=srg.regions, order=tuple(order))
    engine = EagerEngine()
    callables = [engine.load(engine.compile(_graph(srg, region))) for region in plan.regions]
    program, constants = program_of(srg, plan)
    return list(executable(program, callables, constants)(list(arguments)))


def _graph(srg: SRG, region: Region) -> RegionGraph:
    return RegionGraph(
        gm=extract(srg, region),
        structural_hash=region.structural_hash,
        canonical=None,
        example_inputs=tuple(input_value(srg, srg.node(name)) for name in region.inputs),
        label=region.label,
        kind=srg.kind.value,
    )
