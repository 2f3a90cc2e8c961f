"""What was captured of a model and decided about it, as plain data for reports and tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.dispatch.entrant import DispatchStatus
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.passes.base import PassTiming
from djinn_fx.reasons import Reason
from djinn_fx.runtime.arena.arena import Arena
from djinn_fx.runtime.program import Program, with_arena
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
        contests: the graphs for which engines competed, as they stood after the call.
        live_bytes: most bytes of tensors on the CPU in one further call; None: not counted.
        call_s: seconds of a settled further call; None: none was timed.
        first_s: seconds of the first call, with all that it waits for.
        error: what ended the call after the last of the graphs; None: nothing did.
    """

    graphs: tuple[CapturedGraph, ...]
    graph_breaks: tuple[str, ...]
    output: Any
    contests: tuple[DispatchStatus, ...] = ()
    live_bytes: int | None = None
    call_s: float | None = None
    first_s: float | None = None
    error: Exception | None = None


def in_arena(program: Program, captured: CapturedGraph) -> tuple[Program, CapturedGraph, Arena | None]:
    """The program with what is to lie in an arena, the graph with Reasons for what is not, and the arena."""
    program, reasons = with_arena(program, captured.srg, captured.plan)
    captured = replace(captured, plan=replace(captured.plan, reasons=(*captured.plan.reasons, *reasons)))
    arena = Arena(program.arena, len(program.steps), reasons) if program.arena is not None else None
    return program, captured, arena


def device_of(srg: SRG) -> str:
    """The device most of the graph's values are on."""
    counts: dict[str, int] = {}
    for node in srg.nodes:
        for meta in srg.record(node).outputs:
            counts[meta.device] = counts.get(meta.device, 0) + 1
    return max(sorted(counts), key=lambda device: counts[device], default="cpu")


def put_into_trace(srg: SRG, plan: Plan) -> None:
    """Put the SRG and the plan into torch's structured trace (TORCH_TRACE, shown by tlparse)."""
    from torch._logging import trace_structured

    from djinn_fx.srg.printer import to_text
    from djinn_fx.srg.serialise import plan_to_json

    def put(name: str, payload: Callable[[], str]) -> None:
        metadata = {"name": name, "encoding": "string"}
        trace_structured("artifact", metadata_fn=lambda: metadata, payload_fn=payload)

    put("djinn_srg", lambda: to_text(srg))
    put("djinn_plan", lambda: json.dumps(plan_to_json(plan), indent=1))


def make_boxed_func_from(run: Any) -> Any:
    """Mark a callable as taking its arguments in a list."""

    def boxed(args: list[Any]) -> Any:
        return run(args)

    boxed._boxed_call = True  # type: ignore[attr-defined]
    return boxed
