"""place: which device every op and region runs on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from torch.fx import Node

from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG


@dataclass(frozen=True, kw_only=True)
class Place:
    """Put everything on the context's device, or spread it over the devices that the context names.

    Where the graph itself mixes devices, each op is left where it is.
    """

    name: ClassVar[str] = "place"
    after: ClassVar[tuple[str, ...]] = ("colocate",)
    requires: ClassVar[tuple[str, ...]] = ("regions-partition",)
    ensures: ClassVar[tuple[str, ...]] = ("placed",)

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Set the device of every record and region."""
        mixed, placing = srg.fact(devices_of), context.placing
        told = placing.told if placing is not None else ()
        if placing is not None or context.foreseen is not None:
            from djinn_fx.passes.placing.spread import foresee, spread  # with its solvers, which few graphs need

            told += foresee(srg, context.foreseen) if context.foreseen is not None else ()
            if placing is not None and placing.devices and (placing.elsewhere or set(mixed) <= {placing.home}):
                return PassResult(modified=True, reasons=(*told, *spread(srg, placing, context)))
        srg.home = None
        if context.foreseen is None:
            srg.placement = None  # one that was before devices were lost
        if len(mixed) > 1:
            for node in srg.nodes:
                srg.update(node, device=_own_device(srg, node, context.device))
            detail = f"the graph itself uses {', '.join(mixed)}: every op stays where the graph has it"
        else:
            for node in srg.nodes:
                srg.update(node, device=context.device)
            detail = f"everything runs on {context.device}, the only device of this plan"
        srg.regions = tuple(
            replace(region, device=_most_common(srg, region.nodes, context.device) if mixed[1:] else context.device)
            for region in srg.regions
        )
        return PassResult(modified=True, reasons=(*told, Reason(kind=ReasonKind.PLACED, detail=detail)))


def devices_of(srg: SRG) -> tuple[str, ...]:
    """Devices of the graph's tensors, in order of first appearance; ``meta`` is none."""
    seen = dict.fromkeys([meta.device for node in srg.nodes for meta in srg.record(node).outputs])
    return tuple(device for device in seen if device != "meta")


def _own_device(srg: SRG, node: Node, default: str) -> str:
    """Where the op computes: where its result is, else (sizes, assertions) where its inputs are."""
    for place in (node, *node.all_input_nodes):
        for meta in srg.record(place).outputs:
            if meta.device != "meta":
                return meta.device
    return default


def _most_common(srg: SRG, names: tuple[str, ...], default: str) -> str:
    """The device of most ops of a region; the first met of several."""
    count = Counter(srg.record(srg.node(name)).device or default for name in names)
    return count.most_common(1)[0][0] if count else default
