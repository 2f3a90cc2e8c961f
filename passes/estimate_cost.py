"""estimate-cost: what every op does and how long the device takes for it, by the roofline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from djinn_fx.costmodels.roofline import price
from djinn_fx.hardware.catalogue import default_device, find_device
from djinn_fx.hardware.device import Device
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG


@dataclass(frozen=True, kw_only=True)
class EstimateCost:
    """Set every op's cost. An op without a rule is listed, with its bytes and no operations.

    Attributes:
        device: catalogue row to price for; empty: the row that stands for the context's device type.
    """

    name: ClassVar[str] = "estimate-cost"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("costed",)

    device: str = ""

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Price each op; list each sort of op that has no price."""
        device = self._device(context)
        unpriced: Counter[str] = Counter()
        first: dict[str, Reason] = {}
        for node in srg.ops:
            cost, problem = price(srg, node, device)
            reason = None
            if problem is not None:
                op = srg.record(node).op
                reason = Reason(kind=ReasonKind.UNPRICED, node=node.name, detail=f"{op}: {problem}; bytes only")
                unpriced[op] += 1
                first.setdefault(op, reason)
            srg.update(node, reason=reason, cost=cost)
        return PassResult(modified=True, reasons=tuple(_listed(first[op], count) for op, count in unpriced.items()))

    def _device(self, context: PassContext) -> Device:
        """The device to price for."""
        return find_device(self.device) if self.device else default_device(context.device.partition(":")[0])


def _listed(reason: Reason, count: int) -> Reason:
    times = f" ({count} calls, this is the first)" if count > 1 else ""
    return Reason(kind=reason.kind, node=reason.node, detail=reason.detail + times)
