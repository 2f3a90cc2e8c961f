"""plan-transfers: which values move between devices, and before which region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from djinn_fx.costmodels.work.traffic import node_bytes, packet_name
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.passes.placing.request import Placing
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region, Transfer
from djinn_fx.srg.record import RESIDENT
from djinn_fx.units import format_bytes

#: Ops that move a value to another device themselves, as the user wrote it: no transfer is planned for them.
_MOVES_ITSELF = frozenset({"aten._to_copy", "aten.copy_", "aten.copy", "aten.to", "prims.device_put"})


@dataclass(frozen=True, kw_only=True)
class PlanTransfers:
    """List each value that a region on another device reads, once a device, or once a read if it is written to."""

    name: ClassVar[str] = "plan-transfers"
    after: ClassVar[tuple[str, ...]] = ("order",)
    requires: ClassVar[tuple[str, ...]] = ("placed", "order-valid")
    ensures: ClassVar[tuple[str, ...]] = ()

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Walk the regions in order and note what crosses."""
        written = srg.fact(_written)
        moved: dict[tuple[str, str], Transfer] = {}
        transfers: list[Transfer] = []
        for index in srg.order:
            for transfer in _crossing(srg, srg.regions[index], context.placing):
                key = (transfer.value, transfer.target)
                changes = any(meta.storage in written for meta in srg.record(srg.node(transfer.value)).outputs)
                if changes or key not in moved:
                    transfers.append(transfer)
                    moved[key] = transfer
        srg.transfers = tuple(transfers)
        devices = sorted({region.device for region in srg.regions})
        if transfers:
            size = format_bytes(sum(transfer.nbytes for transfer in transfers))
            detail = f"{len(transfers)} transfers, {size} a call, between {', '.join(devices)}"
        else:
            detail = f"none: no region reads a value from another device ({', '.join(devices) or context.device})"
        return PassResult(modified=bool(transfers), reasons=(Reason(kind=ReasonKind.TRANSFER, detail=detail),))


def _written(srg: SRG) -> frozenset[int]:
    """The storages that some op writes."""
    targets = {name for op in srg.ops for name in srg.record(op).mutates}
    return frozenset(meta.storage for name in targets for meta in srg.record(srg.node(name)).outputs)


def _crossing(srg: SRG, region: Region, placing: Placing | None) -> Iterator[Transfer]:
    """What a region reads from another device than its own.

    Where devices are chosen from, what stays between calls is in the memory of every device that uses it; where they
    have memory of their own, every other tensor passes.
    """
    resident, apart = placing is not None and bool(placing.devices), srg.home is not None
    inside = set(region.nodes)
    for name in region.inputs:
        node = srg.node(name)
        source = srg.record(node).device
        if (
            source is None
            or source == region.device
            or not (srg.record(node).outputs if apart else _needs_copy(srg, node, inside))
        ):
            continue
        if resident and (node.op == "get_attr" or srg.record(node).residency in RESIDENT):
            continue
        yield Transfer(
            value=name,
            source=source,
            target=region.device,
            before_region=region.index,
            nbytes=node_bytes(srg, node),
        )


def _needs_copy(srg: SRG, node: Node, readers: set[str]) -> bool:
    """Whether a reader wants the value on its own device: not if it copies it itself, or takes a CPU scalar."""
    outputs = srg.record(node).outputs
    if all(meta.shape == () and meta.device == "cpu" for meta in outputs):
        return False
    return any(
        packet_name(srg.record(user).op) not in _MOVES_ITSELF and srg.record(user).device != srg.record(node).device
        for user in node.users
        if user.name in readers
    )
