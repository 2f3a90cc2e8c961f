"""Two devices of one processor each, and a graph's regions spread over them by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.eager import as_callable
from djinn_fx.passes.base import PassContext
from djinn_fx.passes.placing.request import Placing
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.runtime.devices.executor import Spread
from djinn_fx.runtime.devices.make import spread_of
from djinn_fx.runtime.program import program_of
from djinn_fx.settings.devices import DeclaredLink, LocalDevice
from djinn_fx.srg import SRG, Plan
from djinn_fx.srg.extract import extract
from djinn_fx.srg.verify import verify
from tests.running import cut_by_labels

CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="needs two processors")
DEVICES = tuple(LocalDevice(name=f"cpu:{place}", cores=(core,)) for place, core in enumerate(CORES))
#: As settings.
OPTIONS = {"devices": {one.name: {"cores": list(one.cores)} for one in DEVICES}}


def spread(
    srg: SRG,
    labels: Sequence[int | None],
    devices: Sequence[int],
    links: Sequence[DeclaredLink] = (),
    callables: Sequence[RegionCallable] | None = None,
) -> Spread:
    """A graph cut by labels, each region on one of the two devices, by its place among them."""
    cut_by_labels(srg, labels)
    names = [DEVICES[devices[region.index % len(devices)]].name for region in srg.regions]
    srg.regions = tuple(replace(one, device=name) for one, name in zip(srg.regions, names, strict=True))
    for region in srg.regions:
        for name in region.nodes:
            srg.update(srg.node(name), device=region.device)
    for node in (*srg.inputs, *srg.gm.graph.find_nodes(op="get_attr")):
        srg.update(node, device=next((srg.record(user).device for user in node.users), DEVICES[0].name))
    verify(srg, ["regions-partition", "order-valid"])
    request = Placing(devices=DEVICES, topology=None)  # type: ignore[arg-type]  # transfers are only listed
    PlanTransfers().run(srg, PassContext(placing=request))
    plan = Plan(regions=srg.regions, order=srg.order, transfers=srg.transfers)
    program, constants = program_of(srg, plan)
    made = callables or [as_callable(extract(srg, region)) for region in plan.regions]
    return spread_of(srg, plan, program, made, DEVICES, links, constants)


def one_thread(gm: GraphModule, *args: torch.Tensor) -> list[torch.Tensor]:
    """What a graph gives on one of torch's threads, as a device of one processor has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = gm(*args)
        return [made] if isinstance(made, torch.Tensor) else list(made)
    finally:
        torch.set_num_threads(before)
