"""order-ops: the ops in a sequence that needs less memory at once, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from djinn_fx.costmodels.memory.sequence import reads_of, unordered, waits_of
from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.solvers.ordering.bounds import bound_at, own_bound
from djinn_fx.solvers.ordering.problem import Problem, Solution, peak_of, profile_of
from djinn_fx.srg.extract import depends_on_data, mentions
from djinn_fx.srg.graph import SRG
from djinn_fx.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class OrderOps:
    """Put the graph's nodes into the order with the lowest peak of live tensors that is found in a bounded search.

    An op stays behind all that it reads; writes, random numbers and effects outside keep their order. Nothing moves
    where no order can be better by ``least_gain``, which is told at once for most graphs of a forward pass, nor where
    a size depends on data. Optimizers and tied weights gain most: there a graph makes everything before it uses any.
    No clock is read, so a graph has the same order, and the same keys, in every process.

    Attributes:
        least_gain: share of the peak that must be gained.
        steps: of the search, for each op.
        most_steps: of the search, however many ops there are: a fraction of a second.
    """

    name: ClassVar[str] = "order-ops"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("ops-ordered",)

    least_gain: float = 0.01
    steps: int = 100
    most_steps: int = 50_000

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Move the nodes, if it is worth it."""
        problems = unordered(srg)
        profiles = {device: profile_of(one, range(one.size)) for device, one in problems.items()}
        peaks = {device: max(profiles[device], default=one.held) for device, one in problems.items()}
        device = max(problems, key=lambda one: peaks[one], default=None)
        if device is None or self._is_low(srg, problems[device], profiles[device]):
            return PassResult(modified=False)
        mentioned = srg.fact(mentions)
        if any(depends_on_data(srg, node, mentioned) for node in mentioned):
            return PassResult(modified=False)
        best = self._best(replace(problems[device], before=waits_of(srg)), peaks[device])
        others = (one for one in problems if one != device)
        if best is None or any(peak_of(problems[one], best.order) > peaks[one] for one in others):
            return PassResult(modified=False)
        _move(srg, best.order)
        detail = f"at most {format_bytes(best.peak)} on {device} at once; no order needs less than "
        reason = Reason(
            kind=ReasonKind.ORDERED,
            detail=detail + format_bytes(best.bound),
            runner_up="the order as traced",
            runner_up_cost=format_bytes(peaks[device]),
        )
        return PassResult(modified=True, reasons=(reason,))

    def _is_low(self, srg: SRG, problem: Problem, profile: Sequence[int]) -> bool:
        """Whether it is plain that no order is better by enough than this one; the cheapest proof first."""
        if not profile:
            return True
        peak = max(profile)
        highest = (1 - self.least_gain) * peak
        if own_bound(problem) > highest:
            return True
        return bound_at(replace(problem, before=reads_of(srg)), profile.index(peak)) > highest

    def _best(self, problem: Problem, peak: int) -> Solution | None:
        """The best order found, if it is better enough."""
        from djinn_fx.solvers.ordering.anytime import improvements  # with its search, which few graphs need

        best: Solution | None = None
        least = self.least_gain * peak
        for best in improvements(problem, steps=min(self.most_steps, self.steps * problem.size)):
            if best.peak - best.bound < least:
                break
        return best if best is not None and peak - best.peak >= max(least, 1) else None  # never for nothing


def _move(srg: SRG, order: Sequence[int]) -> None:
    ops = tuple(srg.ops)
    srg.reorder(ops[number] for number in order)
