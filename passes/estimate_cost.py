"""estimate-cost: what every op does and how long the device takes for it, by the cost model in force."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from djinn_fx.costmodels.choose import Pricing, Surviving, pricing
from djinn_fx.costmodels.estimate import UNPRICED, Estimate
from djinn_fx.costmodels.graph_work import graph_work
from djinn_fx.costmodels.laws.roofline import cost_of
from djinn_fx.costmodels.work.work import Work
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import Cost


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
        priced_by = self._pricing(context)
        works = graph_work(srg, fresh=True).whole
        places: dict[Work, int] = {}  # layers repeat: most ops have a twin, and share their work with it
        found: dict[int, int] = {}
        for work in works.ops:
            if id(work) not in found:
                found[id(work)] = places.setdefault(work, len(places))
        which = [found[id(work)] for work in works.ops]
        costs = list(map(_cost, places, priced_by.ops(list(places))))
        unpriced: Counter[str] = Counter()
        first: dict[str, Reason] = {}
        for node, work, place in zip(srg.ops, works.ops, which, strict=True):
            reason = None
            if work.problem is not None:
                op = srg.record(node).op
                reason = Reason(kind=ReasonKind.UNPRICED, node=node.name, detail=f"{op}: {work.problem}; bytes only")
                unpriced[op] += 1
                first.setdefault(op, reason)
            srg.update(node, reason=reason, cost=costs[place])
        listed = [_listed(first[op], count) for op, count in unpriced.items()]
        return PassResult(modified=True, reasons=(*priced_by.reasons, *_failure(priced_by), *listed))

    def _pricing(self, context: PassContext) -> Pricing:
        """By what ops are priced: as the context says, unless this pass names another device."""
        known = context.pricing
        if known is not None and self.device in ("", known.device.name):
            return known
        plain = pricing("datasheet", device=self.device or None, kind=context.device.partition(":")[0])
        assumed = tuple(reason for reason in plain.reasons if reason.kind is ReasonKind.ASSUMED)
        return replace(plain, reasons=assumed)  # that datasheets are used is no news: nobody asked for more


def _cost(work: Work, estimate: Estimate) -> Cost:
    """What an op costs. One without a rule still counts its bytes and its launch: its time is a lower bound."""
    return cost_of(work, estimate if work.problem is None else replace(estimate, provenance=UNPRICED))


def _failure(priced_by: Pricing) -> tuple[Reason, ...]:
    """Why a profile's model gave way to datasheets, if it did."""
    model = priced_by.base
    if not isinstance(model, Surviving) or model.failure is None:
        return ()
    return (Reason(kind=ReasonKind.CACHE_UNUSABLE, detail=model.failure),)


def _listed(reason: Reason, count: int) -> Reason:
    times = f" ({count} calls, this is the first)" if count > 1 else ""
    return Reason(kind=reason.kind, node=reason.node, detail=reason.detail + times)
