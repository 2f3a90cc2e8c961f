"""A compiled model within a budget of memory: what a graph needs, and on which engines it may run.

Counted are tensors, by the graph's memory plan: what comes in and the weights, what is live at the fullest moment, what
ops take beside their results; copies of weights that engines keep; and what comparing an engine's first answers takes.
The graphs of one model (prefill and decode) run one at a time and share the budget: their weights count once, the
largest of their peaks counts, and so do all copies. Not counted: Python and libraries, building, what the caller keeps.
What Inductor wrote says itself what it takes, once it is there: see :func:`djinn_fx.dispatch.region.why_no_room`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from djinn_fx.costmodels.memory.refusal import refusal
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.contestants import ContestBySize
from djinn_fx.errors import InfeasibleError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER, INDUCTOR, traits_of
from djinn_fx.settings.table import Settings
from djinn_fx.srg.memory import Holds, MemoryPeak, MemoryPlan
from djinn_fx.units import format_bytes

#: Copies at a time while engines compete: the best so far's, and that of the one on trial.
TRYING = 2
#: A run in double precision, which decides where numbers differ, takes so many times what the graph does; an engine's
#: answers are there so many times while they are compared: eager's, and the first of two.
_DOUBLED, _ANSWERS = 2, 2


@dataclass(frozen=True, kw_only=True)
class GraphNeed:
    """What one graph takes on one device, in bytes.

    Attributes:
        phase: of the graph.
        peak: of its own ops, run one by one: inputs, weights and what is live.
        weights: of these, what the model keeps.
        comparing: beside that, at most, while an engine's first answers are compared; 0: they are not.
        slices: of the batch, one after the other, in which it runs.
    """

    phase: str
    peak: MemoryPeak
    weights: int
    comparing: int
    slices: int = 1


@dataclass(frozen=True, kw_only=True)
class PlannedMemory:
    """A graph's share of a budget, as it was planned. Bytes.

    Attributes:
        need: of the graph.
        budget: for its device.
        together: what all graphs of the model need on their own ops: the largest peak, all weights once.
        copies: that engines may keep of the weights for this graph.
        engines: how many engines may keep one at a time.
    """

    need: GraphNeed
    budget: int
    together: int
    copies: int
    engines: int

    @property
    def foretold(self) -> int:
        """The most that is in memory in a call whose answers are not compared."""
        return self.together + self.copies

    def __str__(self) -> str:
        need, size = self.need, format_bytes
        parts = f"own ops {size(need.peak.nbytes)}, all graphs {size(self.together)}, copies {size(self.copies)}"
        parts += f"; {need.slices} slices of the batch" if need.slices > 1 else ""
        return f"{need.phase}: {size(self.foretold)} of {size(self.budget)} on {need.peak.device} ({parts})"


@dataclass(frozen=True, kw_only=True)
class Others:
    """The model's other graphs, on one device.

    Attributes:
        weights: bytes of all graphs' weights, this one's too, each once.
        planned: what was planned for them.
    """

    weights: int
    planned: tuple[PlannedMemory, ...] = ()


def need_of(plan: MemoryPlan, device: str, kept: frozenset[str], settings: Settings, inference: bool) -> GraphNeed:
    """What a graph takes.

    Args:
        plan: of its own ops.
        device: where.
        kept: names of the inputs that the model keeps.
        settings: in force.
        inference: whether answers may be compared at all.
    """
    peak = plan.peak(device)
    rows = [one for one in plan.rows if one.device == device]
    answers = sum(one.nbytes for one in rows if one.holds in (Holds.OUTPUT, Holds.STATE))
    compared = inference and device == "cpu" and settings.verify != "off"
    return GraphNeed(
        phase=plan.phase,
        peak=peak,
        weights=sum(one.nbytes for one in rows if one.name in kept),
        comparing=_DOUBLED * peak.nbytes + _ANSWERS * answers if compared else 0,
    )


def beside(need: GraphNeed, others: Others) -> int:
    """Bytes that are there besides what a graph's own ops take: weights that only the model's other graphs read."""
    return max(0, others.weights - need.weights)


class Fitting:
    """How one graph runs within the budget for a device.

    Args:
        need: of the graph.
        others: the model's.
        budget: bytes.
        settings: in force.
        names: engines that keep copies of weights and would take part.

    Attributes:
        evicts: the copies that engines keep for the model's other graphs must go.

    Raises:
        InfeasibleError: it does not run even on its own ops.
    """

    def __init__(self, need: GraphNeed, others: Others, budget: int, settings: Settings, names: Sequence[str]) -> None:
        self._need, self._budget, self._settings, self._names = need, budget, settings, tuple(names)
        peaks = [need, *(one.need for one in others.planned)]
        self._together = max(one.peak.nbytes + beside(one, others) for one in peaks)
        if self._together > budget:
            raise InfeasibleError(refusal(need.phase, need.peak, budget, self._together))
        self._shared = settings.engine == "auto"
        kept = [one.copies for one in others.planned]
        self._kept = max(kept, default=0) if self._shared else sum(kept)
        self.evicts = self._together + self._kept > budget
        if self.evicts:
            self._kept = 0
        self._left = budget - self._together - self._kept
        self._may_compare = self._need.comparing <= self._left
        self._engines = self._counted()

    def _counted(self) -> int:
        """How many engines may keep a copy at a time."""
        if not self._names or not self._may_compare:
            return 0
        left = self._left - self._need.comparing + (self._kept if self._shared else 0)
        most = min(len(self._names), TRYING) if self._shared else len(self._names)
        return min(most, left // self._need.weights) if self._need.weights else most

    @property
    def planned(self) -> PlannedMemory:
        """The graph's share."""
        copies = self._engines * self._need.weights
        return PlannedMemory(
            need=self._need,
            budget=self._budget,
            together=self._together,
            copies=max(copies, self._kept) if self._shared else copies,
            engines=self._engines,
        )

    @property
    def settings(self) -> Settings:
        """Those in force, without the engines that do not fit, and with what is left for the graph's own need."""
        if not self._may_compare:
            return self._with(EAGER)
        if not self._gone:
            return self._with(*self._settings.engines)
        if self._shared:
            return self._with(*self._names[: self._engines], INDUCTOR, *((EAGER,) if self._engines else ()))
        return self._with(*(name for name in self._settings.engines if name not in self._gone))

    def _with(self, *engines: str) -> Settings:
        names = engines or (INDUCTOR,)
        device, others = self._need.peak.device, self.planned.foretold - self._need.peak.nbytes
        shares = {**dict(self._settings.memory_budget or ()), device: f"{self._budget - others}B"}
        changed = {"engine": names if len(names) > 1 else names[0], "memory_budget": tuple(sorted(shares.items()))}
        return self._settings.model_copy(update=changed)

    @property
    def _gone(self) -> tuple[str, ...]:
        """Engines that would keep a copy for which there is no room."""
        enough = self._engines >= min(len(self._names), TRYING if self._shared else len(self._names))
        return () if enough else self._names[self._engines :]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why engines take no part."""
        need, left = self._need, format_bytes(self._left)
        where = f"of the memory budget for {need.peak.device} {left} are left"
        if not self._may_compare:
            detail = (
                f"own ops alone: comparing an engine's first answers may take {format_bytes(need.comparing)}, {where}"
            )
            return (Reason(kind=ReasonKind.BUDGET, detail=detail, node=need.phase),)
        copy = f"its copy of the weights takes {format_bytes(need.weights)}, {where}"
        return tuple(Reason(kind=ReasonKind.BUDGET, detail=f"{name}: {copy}", node=need.phase) for name in self._gone)


def evict(callables: Sequence[object]) -> None:
    """Have the engines that compete for graphs let go of their copies of weights, for good, with a Reason."""
    for one in callables:
        if isinstance(one, (Contest, ContestBySize)):
            contests = [one] if isinstance(one, Contest) else one.distinct
            names = [entrant.engine for contest in contests for entrant in contest.entrants]
            for engine in dict.fromkeys(name for name in names if traits_of(name).binds_weights):
                detail = f"{engine}: the memory of its copy of the weights is needed for other values"
                one.drop(engine, Reason(kind=ReasonKind.EVICTED, detail=detail, node=contests[0].label))
