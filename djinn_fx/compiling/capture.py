"""Compiling a model to see what is decided about it, for reports and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.compiling.captured import CapturedGraph, CaptureResult
from djinn_fx.compiling.graph import GraphCompiler, passes_for
from djinn_fx.compiling.graph_inputs import input_kinds
from djinn_fx.compiling.readiness import GraphHandle
from djinn_fx.settings.table import Settings


def capture_graphs(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    settings: Settings | None,
    build: bool,
    dynamic: bool | None,
) -> CaptureResult:
    """See :func:`djinn_fx.backend.capture`."""
    chosen = settings if settings is not None else Settings.load()
    graphs: list[CapturedGraph] = []
    handles: list[GraphHandle] = []
    breaks: list[str] = []

    def recorder(gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        reason = getattr(gm, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            frame = next(iter(reversed(reason.user_stack or [])), None)
            where = f" at {frame.filename}:{frame.lineno}" if frame is not None else ""
            breaks.append(f"{reason.reason.strip().splitlines()[0]}{where}")
        handles.append(GraphHandle(gm, ()))
        compiler = GraphCompiler(
            chosen,
            passes_for(chosen),
            input_kinds(gm, example_inputs),
            handles[-1],
            note=graphs.append,
            builds=build,
            keeps=False,
        )
        return compiler.through_aot(gm, example_inputs)

    torch._dynamo.reset()
    try:
        output = torch.compile(model, backend=recorder, dynamic=dynamic)(*args, **kwargs)
        contests = tuple(contest.status() for handle in handles for contest in handle.contests)
    finally:
        torch._dynamo.reset()
    return CaptureResult(
        graphs=tuple(graphs), graph_breaks=tuple(dict.fromkeys(breaks)), output=output, contests=contests
    )
