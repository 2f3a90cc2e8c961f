"""What was captured of a model and decided about it, as plain data for reports and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.passes.base import PassTiming
from djinn_fx.reasons import Reason
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan


@dataclass(frozen=True, kw_only=True)
class CapturedGraph:
    """One graph as it was planned, and how its regions were built.

    Attributes:
        srg: the graph with its records.
        plan: what the passes decided.
        pricing: by what it was priced.
        pass_timings: one per pass, in order.
        builds: one per region; empty if nothing was built.
    """

    srg: SRG
    plan: Plan
    pricing: Pricing
    pass_timings: tuple[PassTiming, ...]
    builds: tuple[RegionBuild, ...] = ()

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All decisions: of the plan, then of the builds."""
        return (*self.plan.reasons, *(reason for build in self.builds for reason in build.reasons))


@dataclass(frozen=True, kw_only=True)
class CaptureResult:
    """A model's graphs.

    Attributes:
        graphs: in the order they were compiled.
        graph_breaks: why Dynamo split the model, with the user's file:line.
        output: what the model returned.
    """

    graphs: tuple[CapturedGraph, ...]
    graph_breaks: tuple[str, ...]
    output: Any
