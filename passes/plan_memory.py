"""plan-memory: the table of what is in memory during which op, storage by storage, and the peak of each device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from djinn_fx.costmodels.memory.plan import memory_plan, schedule_of
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.srg.graph import SRG


@dataclass(frozen=True, kw_only=True)
class PlanMemory:
    """Make the graph's memory plan for its own ops, run one by one in the order of the regions.

    A row is one storage: views and aliases share it, and live as long as the last of them is read. What comes in is
    there from the first step to the last, since whoever calls holds it; but what a forward graph saved for its backward
    graph is handed over in a list, and is let go after its last use. What is returned stays to the end. Memory that an
    op takes beside its results is a row of its own, of one step.

    ``threads``: of torch's kernels, some of which take memory for each; 0: as many as torch uses here.
    """

    name: ClassVar[str] = "plan-memory"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("memory-valid",)

    threads: int = 0

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Set ``srg.memory``, and ``srg.peak_bytes`` to the largest peak of a device.

        A graph that was placed anew keeps its plan where ops run in the same sequence: tensors are where they were.
        """
        known = srg.memory.steps if srg.uncut is not None and srg.memory is not None else None
        if known is not None and [step.name for step in known] == [node.name for node in schedule_of(srg)]:
            return PassResult(modified=False)
        srg.memory = memory_plan(srg, threads=self.threads)
        srg.peak_bytes = max((peak.nbytes for peak in srg.memory.peaks()), default=0)
        return PassResult(modified=True)
