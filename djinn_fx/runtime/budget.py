"""A graph that serves several sizes, held to its memory budget at each of them before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.costmodels.memory.plan import memory_plan
from djinn_fx.costmodels.memory.refusal import refusal
from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.keys import symbol_places, symbolic_inputs
from djinn_fx.errors import InfeasibleError
from djinn_fx.runtime.sizes import sizes_in
from djinn_fx.srg.extract import input_value
from djinn_fx.srg.graph import SRG

#: A size is looked at this much larger first, so that sizes that grow from call to call are looked at seldom.
AHEAD = 1.25
#: Sets of sizes that are known to fit.
_REMEMBERED = 64


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a graph may take on one device, in bytes.

    Attributes:
        budget: for the device.
        beside: there besides what the graph's own ops take: weights that only other graphs read, copies of weights.
        copies: of these, copies, which can go.
    """

    budget: int
    beside: int
    copies: int


class WithinBudget:
    """See the module's text. A ``RegionCallable``.

    More memory is taken for larger sizes: what fits at some sizes fits at all that are not larger.

    Args:
        run: the graph.
        srg: its ops.
        limits: by device.
        evict: has engines let go of copies of weights.
    """

    def __init__(self, run: RegionCallable, srg: SRG, limits: Mapping[str, Limit], evict: Callable[[], None]) -> None:
        values = [input_value(srg, node) for node in srg.inputs]
        self._run, self._srg, self._limits, self._evict = run, srg, dict(limits), evict
        self._places = symbol_places(values)
        self._symbols = [str(size.node.expr) for size in symbolic_inputs(values)]
        self._fit: list[tuple[int, ...]] = []

    @property
    def needed(self) -> bool:
        """Whether sizes differ from call to call at all."""
        return bool(self._places)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run; empties the list.

        Raises:
            InfeasibleError: at these sizes it does not fit; nothing was run.
        """
        sizes = sizes_in(self._places, args)
        if not any(all(one <= known for one, known in zip(sizes, fit, strict=True)) for fit in self._fit):
            self._look(sizes)
        return self._run(args)

    def _look(self, sizes: tuple[int, ...]) -> None:
        """Remember that these sizes fit, if they do; copies of weights go where that helps."""
        ahead = tuple(int(one * AHEAD) for one in sizes)
        over = self._over(ahead) and self._over(sizes)
        if over and any(limit.copies for limit in self._limits.values()):
            self._evict()
            self._limits = {
                device: Limit(budget=one.budget, beside=one.beside - one.copies, copies=0)
                for device, one in self._limits.items()
            }
            over = self._over(sizes)
        if over:
            raise InfeasibleError(over)
        self._fit = [*self._fit[1 - _REMEMBERED :], ahead if not self._over(ahead) else sizes]

    def _over(self, sizes: Sequence[int]) -> str:
        """What is wrong at these sizes; empty if they fit."""
        plan = memory_plan(self._srg, dict(zip(self._symbols, sizes, strict=True)))
        for device, limit in self._limits.items():
            if device in plan.devices:
                peak = plan.peak(device)
                if peak.nbytes + limit.beside > limit.budget:
                    return refusal(plan.phase, peak, limit.budget, peak.nbytes + limit.beside - limit.copies)
        return ""
