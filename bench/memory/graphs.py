"""The graphs that memory benches measure: planned and built as djinn does, with what they were called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.choice import passes_for
from djinn_fx.compiling.graph import GraphCompiler
from djinn_fx.compiling.graph_inputs import input_kinds
from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.inductor.kernels import loaded_modules
from djinn_fx.engines.inductor.memory.buffers import memory_plan_of as inductor_plan
from djinn_fx.engines.packed.engine import speeds_in
from djinn_fx.engines.packed.graph import rewritten
from djinn_fx.engines.packed.session import PackedPlan
from djinn_fx.settings.table import Settings
from djinn_fx.srg.memory import Holds, MemoryPlan
from djinn_fx.srg.record import GraphKind, Residency


@dataclass(frozen=True, kw_only=True)
class Built:
    """One graph of a call.

    Attributes:
        captured: what was planned and built.
        run: its callable; takes a list.
        args: what it was called with.
        given_away: places of arguments that only the call holds.
    """

    captured: CapturedGraph
    run: Callable[[list[Any]], Any]
    args: tuple[Any, ...]
    given_away: tuple[int, ...]

    @property
    def plan(self) -> MemoryPlan:
        """Its memory plan on the engine that runs it, without copies of weights, which no call allocates."""
        made = plan_of(self.captured)
        return replace(made, rows=tuple(row for row in made.rows if row.holds is not Holds.COPY))


def plan_of(captured: CapturedGraph) -> MemoryPlan:
    """The memory plan of a graph on the engine that it was built for.

    Raises:
        ValueError: it is in several regions, or one that another engine runs.
    """
    srg, plan = captured.srg, captured.plan
    assert plan.memory is not None, "plan-memory is in every pipeline"
    engines = {one.engine for one in captured.builds}
    if engines == {"eager"}:
        return plan.memory
    if len(plan.regions) != 1 or len(engines) != 1:
        raise ValueError(f"{len(plan.regions)} regions on {', '.join(sorted(engines))}")
    region = plan.regions[0]
    nodes = [srg.node(name) for name in region.inputs]
    if engines == {"packed"}:
        graph = region_graph(srg, region)
        made = PackedPlan(rewritten(graph.gm, graph.weights), graph.weights, speeds_in(None))
        return made.memory({node.name: srg.record(node).residency for node in nodes})
    rows = {row.name: row for row in reversed(plan.memory.rows)}
    tensors = [node for node in nodes if srg.record(node).outputs]
    source = Path(str(loaded_modules()[-1].__file__)).read_text()
    return inductor_plan(
        source,
        [rows[node.name] for node in tensors],
        [srg.record(node).outputs[0].dtype for node in tensors],
        phase=plan.memory.phase,
        threads=torch.get_num_threads(),
    )


class _Recorder(GraphCompiler):
    """Compiles, and keeps what each graph is called with the first time."""

    found: list[Built]

    def compile_aten(self, kind: GraphKind, gm: torch.fx.GraphModule) -> tuple[CapturedGraph, Any, str | None]:
        captured, run, kept = super().compile_aten(kind, gm)
        srg = captured.srg
        given_away = tuple(
            place
            for place, node in enumerate(srg.inputs)
            if kind is GraphKind.BACKWARD and srg.record(node).residency is Residency.ACTIVATION
        )

        def recorded(args: list[Any]) -> Any:
            self.found.append(Built(captured=captured, run=run, args=tuple(args), given_away=given_away))
            return run(args)

        return captured, recorded, kept


def built(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    engine: str,
    loss_of: Callable[[Any], torch.Tensor] | None = None,
    dynamic: bool | None = False,
    without: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> list[Built]:
    """The graphs of one call, or of one training step if there is a loss, in the order in which they are called.

    ``without``: names of passes that are left out; ``options``: settings besides.
    """
    whole = {"engine": engine, "compile": "blocking", "cache_limit": 0, "verify": "off", "regions": "whole"}
    settings = Settings.load(None, {**whole, **(options or {})})
    passes = tuple(one for one in passes_for(settings) if one.name not in without)
    found: list[Built] = []

    def backend(gm: torch.fx.GraphModule, examples: Sequence[Any]) -> Any:
        compiler = _Recorder(settings, passes, input_kinds(gm, examples))
        compiler.found = found
        return compiler.through_aot(gm, examples)

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, dynamic=dynamic)
    with torch.set_grad_enabled(loss_of is not None):
        output = compiled(*args, **kwargs)
        if loss_of is not None:
            loss_of(output).backward()
    torch._dynamo.reset()
    return found
