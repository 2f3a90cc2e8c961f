"""From Dynamo to AOTAutograd, and no further where torch has kept the graph.

What plans and builds graphs takes a third of a second to import: that is done only for a graph that is not kept.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch._functorch.config
from torch._guards import TracingContext
from torch.fx import GraphModule

from djinn_fx.compiling.deferred import DeferredGraph, deferrable
from djinn_fx.compiling.devices.modules import check_pins
from djinn_fx.compiling.entry.contenders import contenders
from djinn_fx.compiling.entry.tracing import keepable, tag_of, through_aot
from djinn_fx.compiling.graph_inputs import input_kinds
from djinn_fx.compiling.readiness import HANDLES, GraphHandle
from djinn_fx.dispatch.tier import tier_names
from djinn_fx.engines.registry import prewarm
from djinn_fx.settings.engines import EAGER, STANDBY
from djinn_fx.settings.table import Settings
from djinn_fx.srg.record import GraphKind, Residency

if TYPE_CHECKING:
    from djinn_fx.compiling.graph import GraphCompiler


def compile_graph(gm: GraphModule, example_inputs: Sequence[Any], settings: Settings) -> Callable[..., Any]:
    """Compile one of Dynamo's graphs.

    Raises:
        SettingsError: the option ``passes`` names no pass.
        EngineError: an engine failed and ``on_failure`` is ``"raise"``.
    """
    _check_passes(settings)
    check_pins(settings)
    kinds = input_kinds(gm, example_inputs)
    if ahead_of_time():
        from djinn_fx.compiling.graph import compiler_for
        from djinn_fx.saved.file import compile_ahead

        return compile_ahead(gm, example_inputs, settings, functools.partial(compiler_for, kinds=kinds))
    weights = [one for one, kind in zip(example_inputs, kinds, strict=False) if kind is not Residency.INPUT]
    handle = GraphHandle(gm, [one for one in weights if isinstance(one, torch.Tensor)], example_inputs)
    entering = Entering(settings, kinds, handle)
    # What does not fit into a budget must be told before anything runs; what workers rely on guards this graph.
    at_once = settings.memory_budget is not None or settings.workers is not None
    waits = settings.compile == "blocking" or settings.engine == EAGER or at_once
    fakes = deferrable(gm, example_inputs) if not waits else None
    HANDLES.append(handle)
    if fakes is None:
        return entering.compile(gm, example_inputs)
    deferred = DeferredGraph(
        gm, fakes, TracingContext.get(), entering.compile, at_second_call=settings.compile == "background"
    )
    handle.deferred = weakref.ref(deferred)
    return deferred


def compile_program(program: Any, mode: str | None, options: Mapping[str, Any] | None) -> Callable[..., Any]:
    """See :func:`djinn_fx.backend.compile_exported`."""
    settings = Settings.load(mode, options)
    _check_passes(settings)
    backend = functools.partial(compile_graph, settings=settings)
    dynamic = True if program.range_constraints else None
    compiled: Callable[..., Any] = torch.compile(program.module(), backend=backend, dynamic=dynamic)
    return compiled


def _check_passes(settings: Settings) -> None:
    """Whether there are the passes that are asked for; the default ones need not be imported to be told."""
    if settings.passes is not None:
        from djinn_fx.compiling.choice import passes_for

        passes_for(settings)


def ahead_of_time() -> bool:
    """Whether torch's ``aot_compile`` asks for a function that can be saved."""
    config = torch._functorch.config
    return bool(getattr(config, "force_autograd_cache", False) and getattr(config, "bypass_autograd_cache_key", False))


class Entering:
    """One of Dynamo's graphs: taken whole from torch's cache, or compiled.

    Args:
        settings: in force.
        kinds: of its inputs.
        handle: ties what is built to its model.
    """

    def __init__(self, settings: Settings, kinds: Sequence[Residency], handle: GraphHandle) -> None:
        self.settings, self._kinds, self._handle = settings, kinds, handle

    @functools.cached_property
    def _compiler(self) -> GraphCompiler:
        from djinn_fx.compiling.graph import compiler_for

        return compiler_for(self.settings, self._kinds, self._handle)

    def compile(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Trace, plan and build the graph, or take it whole from torch's cache."""
        if self._inductor_is_next():
            prewarm(STANDBY, example_inputs)
        if not keepable(self.settings):
            return self._compiler.through_aot(gm, example_inputs)
        from djinn_fx.saved.early import early
        from djinn_fx.saved.torch_cache import hash_torch_beside, keeping

        hash_torch_beside()
        tag = tag_of(self.settings, self._kinds)
        begun = early(gm, example_inputs, self.settings, tag)
        with keeping(self.settings, tag, begun) as loaded:
            compiled = through_aot(self._compile, self._partition, gm, example_inputs, kept=True)
        self._handle.add(loaded)
        return compiled

    def _compile(self, kind: GraphKind, gm: GraphModule, example_inputs: Sequence[Any]) -> Any:
        return self._compiler.compile_traced(kind, gm, example_inputs)

    def _partition(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiler.partition(*args, **kwargs)

    def _inductor_is_next(self) -> bool:
        """Whether the caller will wait for Inductor, as far as can be told before tracing."""
        if self.settings.compile != "blocking" or tier_names(self.settings)[:1] != (STANDBY,):
            return False
        return torch.is_grad_enabled() or not contenders(self.settings, GraphKind.INFERENCE, "cpu")
