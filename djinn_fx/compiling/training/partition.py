"""Under an activation budget: which values are saved for the backward graph, and which are computed again.

torch's partitioner does the choosing: told which share of the bytes that it would save may be saved, it computes again
what costs least. What that comes to is told by the memory plans of the two graphs that it makes. The forward pass is
also tried in parts, with what passes between them saved (:mod:`cuts`). Of all that fits, the one that computes least
again is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch._functorch.config
from functorch.compile import min_cut_rematerialization_partition
from torch.fx import Graph, GraphModule, Node
from torch.utils.checkpoint import CheckpointPolicy

from djinn_fx.compiling.training.cuts import Cuts
from djinn_fx.costmodels.memory.activations import activations
from djinn_fx.errors import InfeasibleError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.effects import is_random
from djinn_fx.srg.memory import MemoryPeak, MemoryPlan
from djinn_fx.srg.record import GraphKind
from djinn_fx.units import format_bytes

#: Shares of the bytes that torch would save, by itself. At 0 it would draw random numbers again.
SHARES = (0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.37, 0.3, 0.24, 0.18, 0.13, 0.09, 0.06, 0.03, 1e-6)
#: Into how many parts the forward pass is cut.
PARTS = (1, 2, 3, 4, 6, 8, 12, 24)

PlanOf = Callable[[GraphKind, GraphModule], MemoryPlan]
TimesOf = Callable[[GraphModule], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way of dividing the work.

    Attributes:
        forward, backward: the graphs.
        peak: the moment at which activations take most, in either graph.
        again: how many ops run in both.
        again_s: seconds that these take, as estimated.
    """

    forward: GraphModule
    backward: GraphModule
    peak: MemoryPeak
    again: int
    again_s: float


class BudgetPartition:
    """A ``partition_fn`` for AOTAutograd that keeps activations within a budget.

    Args:
        budget: in bytes, on each device; None: as torch divides a graph.
        plan_of: makes the memory plan of a graph as it will run.
        times_of: seconds that each op of the joint graph takes, by node.

    Attributes:
        reasons: what was decided, once it was.
    """

    def __init__(self, budget: int | None, plan_of: PlanOf, times_of: TimesOf) -> None:
        self._budget, self._plan_of, self._times_of = budget, plan_of, times_of
        self.reasons: tuple[Reason, ...] = ()

    def __call__(self, joint: GraphModule, inputs: Sequence[Any], **how: Any) -> tuple[GraphModule, GraphModule]:
        """Divide the joint graph.

        Raises:
            InfeasibleError: no way that was tried fits; names what takes most then and the smallest budget that does.
        """
        if self._budget is None:
            return _partition(joint, inputs, **how)
        work = _Search(joint, inputs, how, self._plan_of, self._times_of(_copy(joint)))
        default = work.tried(1.0, 1)
        assert default is not None, "what torch saves by itself draws no random number twice"
        best = default if default.peak.nbytes <= self._budget else work.cheapest(self._budget)
        if best is None:
            raise _infeasible(self._budget, work.lowest)
        self.reasons = (_reason(self._budget, best, default),)
        return best.forward, best.backward


class _Search:
    """Ways of dividing one joint graph."""

    def __init__(
        self,
        joint: GraphModule,
        inputs: Sequence[Any],
        how: Mapping[str, Any],
        plan_of: PlanOf,
        times: Mapping[str, float],
    ) -> None:
        self._joint, self._inputs, self._how, self._plan_of, self._times = joint, inputs, how, plan_of, times
        self._cuts = Cuts(joint.graph)
        self._lowest: Candidate | None = None

    @property
    def lowest(self) -> Candidate:
        """The one with the lowest peak so far."""
        assert self._lowest is not None, "the default is tried before anything else"
        return self._lowest

    def cheapest(self, budget: int) -> Candidate | None:
        """Of those that fit, the one that computes least again, by time; None if none fits."""
        found = [self._largest_share(budget, 1, None)]
        different = {self._cuts.saved(parts): parts for parts in reversed(PARTS) if parts > 1}
        least = {parts: self.tried(SHARES[-1], parts) for parts in sorted(different.values())}
        fits = {parts: one for parts, one in least.items() if one is not None and one.peak.nbytes <= budget}
        if fits:  # more is then saved again, beginning from what computes least or leaves most room
            starts = {min(fits, key=lambda one: fits[one].again_s), min(fits, key=lambda one: fits[one].peak.nbytes)}
            found += [self._largest_share(budget, parts, fits[parts]) for parts in sorted(starts)]
        return min((one for one in found if one is not None), key=lambda one: one.again_s, default=None)

    def _largest_share(self, budget: int, parts: int, least: Candidate | None) -> Candidate | None:
        """The largest share that fits; ``least``: what the least one gave, if it is known to fit.

        In parts the peak falls with the share; in one go only down to some share.
        """
        best = least
        low, high = 0, len(SHARES) - (least is not None)
        while low < high:
            middle = (low + high) // 2
            found = self.tried(SHARES[middle], parts)
            if found is not None and found.peak.nbytes <= budget:
                best, high = found, middle
            else:
                low = middle + 1
        return best

    def tried(self, share: float, parts: int) -> Candidate | None:
        """One way; None if a random op would run twice."""
        joint, saved = _copy(self._joint), self._cuts.saved(parts)
        for node in joint.graph.nodes:
            # A random op that ran twice would give other numbers. What a checkpoint has tagged, torch sees to.
            if is_random(node) or node.name in saved:
                node.meta.setdefault("recompute", CheckpointPolicy.MUST_SAVE)
        with torch._functorch.config.patch(activation_memory_budget=share, **_estimator(self._times)):
            forward, backward = _partition(joint, self._inputs, **self._how)
        names = {node.name for node in forward.graph.nodes if node.op == "call_function"}
        both = [node for node in backward.graph.nodes if node.op == "call_function" and node.name in names]
        if any(map(is_random, both)):
            return None
        peaks = [
            peak
            for kind, graph in ((GraphKind.FORWARD, forward), (GraphKind.BACKWARD, backward))
            for peak in activations(self._plan_of(kind, graph), kind).peaks()
        ]
        found = Candidate(
            forward=forward,
            backward=backward,
            peak=max(peaks, key=lambda one: one.nbytes),
            again=len(both),
            again_s=sum(self._times.get(node.name, 0.0) for node in both),
        )
        if self._lowest is None or found.peak.nbytes < self._lowest.peak.nbytes:
            self._lowest = found
        return found


def _partition(joint: GraphModule, inputs: Sequence[Any], **how: Any) -> tuple[GraphModule, GraphModule]:
    """torch's own division."""
    made: tuple[GraphModule, GraphModule] = min_cut_rematerialization_partition(
        joint, inputs, compiler="inductor", **how
    )
    return made


def _copy(joint: GraphModule) -> GraphModule:
    """The same graph once more: the partitioner changes the one it is given."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    returned = graph.graph_copy(joint.graph, copies)
    graph.output(returned).meta = copy.copy(joint.graph.output_node().meta)
    graph.set_codegen(joint.graph._codegen)
    return GraphModule(joint, graph)


def _estimator(times: Mapping[str, float]) -> dict[str, Any]:
    """torch's setting for what computing again costs; nothing where this torch takes none of ours."""
    try:
        from torch._inductor.custom_graph_pass import CustomRuntimeEstimator
    except ImportError:
        return {}

    class Priced(CustomRuntimeEstimator):
        def __call__(self, node: Node) -> float:
            return times.get(node.name, 0.0) * 1e6 + 1e-3  # never for nothing

        def uuid(self) -> None:
            return None

    return {"activation_memory_budget_runtime_estimator": Priced()}


def _reason(budget: int, best: Candidate, default: Candidate) -> Reason:
    fits = f"activations take at most {format_bytes(best.peak.nbytes)} of {format_bytes(budget)}"
    if best is default:
        return Reason(kind=ReasonKind.BUDGET, detail=f"{fits}; no more is computed again than without a budget")
    return Reason(
        kind=ReasonKind.BUDGET,
        detail=f"{fits}; {best.again - default.again} more ops run in the backward graph again than without a budget",
        runner_up="what is saved without a budget",
        runner_up_cost=format_bytes(default.peak.nbytes),
    )


def _infeasible(budget: int, best: Candidate) -> InfeasibleError:
    at, rows = best.peak.at, best.peak.biggest
    where = f", at {at.op}" + (f" ({at.source})" if at.source else "") if at is not None else ""
    largest = f"; the largest tensor then is {rows[0].name}, {format_bytes(rows[0].nbytes)} {rows[0].holds.value}"
    return InfeasibleError(
        f"option 'activation_budget': {format_bytes(budget)} is too little for this training step: activations take "
        f"{format_bytes(best.peak.nbytes)} at least, in {best.peak.device} memory{where}{largest if rows else ''}. "
        f"Give {_rounded_up(best.peak.nbytes)} or more, or train on smaller batches"
    )


def _rounded_up(nbytes: int) -> str:
    """A budget that is enough, as one would write it."""
    return f"{-(-nbytes // 1000)}kB"
