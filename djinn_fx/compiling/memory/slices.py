"""A graph that does not fit into the memory budget, in as few slices of its batch as do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch.fx import GraphModule

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.readiness import GraphHandle, others_of
from djinn_fx.costmodels.memory.plan import memory_plan, returned_values
from djinn_fx.costmodels.memory.refusal import refusal
from djinn_fx.dispatch.budget import GraphNeed, beside, need_of
from djinn_fx.errors import InfeasibleError
from djinn_fx.passes.splitting.call import Refused
from djinn_fx.passes.splitting.part import part_of, wholes_of
from djinn_fx.passes.splitting.samples import Batch, batch_of
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.slices import Slices
from djinn_fx.settings.table import Settings
from djinn_fx.srg.effects import written_nodes
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow
from djinn_fx.srg.record import GraphKind
from djinn_fx.units import format_bytes, format_seconds

PlanOf = Callable[[GraphModule], MemoryPlan]


@dataclass(frozen=True, kw_only=True)
class Parted:
    """A graph in slices.

    Attributes:
        graph: of one slice.
        slices: how the batch is parted.
        whole: the graph as it was planned at first.
    """

    graph: GraphModule
    slices: Slices
    whole: CapturedGraph

    def planned(self, part: CapturedGraph) -> CapturedGraph:
        """The slice's graph as planned, with all that is there beside it in its memory plan, and why it is a slice."""
        own = part.plan.memory if part.plan.memory is not None else memory_plan(part.srg)
        memory = part.srg.memory = _beside_whole(own, self.whole.srg)
        plan = replace(part.plan, memory=memory, peak_bytes=max(one.nbytes for one in memory.peaks()))
        return replace(part, plan=replace(plan, reasons=(*plan.reasons, self._reason(part, memory))))

    def _reason(self, part: CapturedGraph, memory: MemoryPlan) -> Reason:
        slices, whole = self.slices, self.whole.plan
        runs = len(slices.starts)
        detail = (
            f"in {runs} slices of {slices.size} of {slices.count} samples: at most "
            f"{format_bytes(max(one.nbytes for one in memory.peaks()))} at once, and "
            f"{format_seconds(runs * part.plan.cost.time_s)}"
        )
        cost = f"{format_bytes(whole.peak_bytes)}, {format_seconds(whole.cost.time_s)}"
        return Reason(kind=ReasonKind.BUDGET, detail=detail, runner_up="all samples at once", runner_up_cost=cost)


def parted(
    captured: CapturedGraph, settings: Settings, handle: GraphHandle | None, kept: frozenset[str], plan_of: PlanOf
) -> Parted | None:
    """A graph in as few slices as fit into the budget; None if it fits as it is.

    Args:
        captured: the graph, planned.
        settings: in force.
        handle: of its model.
        kept: names of the inputs that the model keeps.
        plan_of: makes the memory plan of a graph as it will run.

    Raises:
        InfeasibleError: it does not fit even one sample at a time, or cannot be parted; says why, names what takes most
            then and the smallest budget with which the graph runs.
    """
    whole = captured.plan.memory if captured.plan.memory is not None else memory_plan(captured.srg)
    budgets = {device: budget for device, budget in settings.memory_bytes.items() if device in whole.devices}

    def over(plan: MemoryPlan) -> tuple[GraphNeed, int, int] | None:
        """The device on which a plan does not fit: what it needs there, the budget, and what would do."""
        for device, budget in budgets.items():
            need = need_of(plan, device, kept, settings, inference=True)
            together = need.peak.nbytes + beside(need, others_of(handle, need))
            if together > budget:
                return need, budget, together
        return None

    first = over(whole)
    if first is None or captured.srg.kind is not GraphKind.INFERENCE:
        return None  # training saves what its backward graph wants whole
    search = _Search(captured.srg, plan_of)
    found = search.fewest(lambda plan: over(plan) is None)
    if found is not None:
        return Parted(graph=found[0], slices=found[1], whole=captured)
    need, budget, together = first
    best = over(search.lowest) if search.lowest is not None else None
    if best is not None and best[0].peak.device == need.peak.device and best[2] < together:
        need, budget, together = best
    raise InfeasibleError(refusal(need.phase, need.peak, budget, together, search.why))


class _Search:
    """Slices of one graph."""

    def __init__(self, srg: SRG, plan_of: PlanOf) -> None:
        self._srg, self._plan_of = srg, plan_of
        found = batch_of(srg)
        self._batch = found if isinstance(found, Batch) else None
        #: Why it is not in slices, or why smaller ones are of no use.
        self.why = found if isinstance(found, str) else "as few as one sample at a time do not fit either"
        #: The memory plan of the smallest slices.
        self.lowest: MemoryPlan | None = None

    def fewest(self, fits: Callable[[MemoryPlan], bool]) -> tuple[GraphModule, Slices] | None:
        """The largest slices that fit. Smaller slices take less."""
        if self._batch is None:
            return None
        count, best = self._batch.count, None
        sizes = sorted({-(-count // runs) for runs in range(2, count + 1)})
        if self._batch.written:  # no sample may be written twice
            sizes = [one for one in sizes if count % one == 0]
        low, high, at = 0, len(sizes), 0  # the smallest first: where it does not fit nothing does
        try:
            while low < high:
                part = part_of(self._srg, self._batch, sizes[at])
                plan = _beside_whole(self._plan_of(part), self._srg)
                self.lowest = plan if at == 0 else self.lowest
                if fits(plan):
                    best, low = (part, self._slices(sizes[at])), at + 1
                else:
                    high = at
                at = (low + high) // 2
        except Refused as refused:
            self.why = str(refused)
        return best

    def _slices(self, size: int) -> Slices:
        assert self._batch is not None, "asked for after that was looked at"
        inputs = tuple(map(self._batch.at, self._srg.inputs))
        copied = (self._srg.inputs.index(one) for one in self._batch.written if self._batch.at(one) is None)
        return Slices(
            count=self._batch.count,
            size=size,
            inputs=inputs,
            results=wholes_of(self._srg, self._batch),
            copied=tuple(copied),
        )


def _beside_whole(plan: MemoryPlan, srg: SRG) -> MemoryPlan:
    """A slice's memory plan with the whole graph's results, which are there from the first slice on."""
    rows = [
        MemoryRow(
            name=f"all of {node.name}",
            holds=Holds.OUTPUT,
            nbytes=sum(meta.nbytes for meta in srg.record(node).outputs),
            start=0,
            end=max(1, len(plan.steps)),
            device=srg.record(node).outputs[0].device,
            given=True,
        )
        for node in returned_values(srg)
        if not written_nodes(node)
    ]
    return replace(plan, rows=(*plan.rows, *rows))
