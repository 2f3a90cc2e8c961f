"""From Dynamo's graph to a compiled callable: AOTAutograd, SRG, passes, plan, engines, runtime."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from functorch.compile import make_boxed_func
from torch.fx import GraphModule

from djinn_fx.compiling.captured import CapturedGraph, device_of, in_arena, make_boxed_func_from, put_into_trace
from djinn_fx.compiling.choice import in_one_piece, outlook, passes_for, passes_of, planned_whole
from djinn_fx.compiling.devices.elsewhere import unexecuted
from djinn_fx.compiling.devices.homes import HOMES
from djinn_fx.compiling.devices.placer import Placer
from djinn_fx.compiling.entry.contenders import contenders
from djinn_fx.compiling.entry.session import compile_session
from djinn_fx.compiling.entry.tracing import keepable, tag_of, through_aot
from djinn_fx.compiling.graph_inputs import place_of
from djinn_fx.compiling.learning import learning
from djinn_fx.compiling.memory.share import held_to_budget, or_infeasible, planned_memory, within_budget
from djinn_fx.compiling.memory.slices import Parted, parted
from djinn_fx.compiling.pricing import pricing_for
from djinn_fx.compiling.readiness import HANDLES, GraphHandle
from djinn_fx.compiling.training.budget import partition_of
from djinn_fx.dispatch.build import Builder, Whole
from djinn_fx.dispatch.memory import MEMORY
from djinn_fx.dispatch.refusals import absent, told_of_refusals
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.guard.quarantine import QUARANTINE
from djinn_fx.passes.base import Pass, run_passes
from djinn_fx.passes.pipeline import plan_of
from djinn_fx.reasons import Reason
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, program_of
from djinn_fx.runtime.slices import InSlices
from djinn_fx.settings.table import Settings
from djinn_fx.srg.lower import lower
from djinn_fx.srg.memory import MemoryPlan
from djinn_fx.srg.record import GraphKind, Residency

if TYPE_CHECKING:
    from djinn_fx.saved.file import Ahead

log = logging.getLogger("djinn_fx")

#: How many compilations of this process are remembered.
_REMEMBERED = 256
#: What comes in that the model does not keep.
_PASSING = (Residency.INPUT, Residency.ACTIVATION)

_HISTORY: deque[CapturedGraph] = deque(maxlen=_REMEMBERED)


def history() -> tuple[CapturedGraph, ...]:
    """The compilations of this process, oldest first."""
    return tuple(_HISTORY)


def forget() -> None:
    """Drop loaded artefacts and the history."""
    MEMORY.clear()
    QUARANTINE.clear()
    HANDLES.clear()
    HOMES.clear()
    _HISTORY.clear()


def compiler_for(
    settings: Settings, kinds: Sequence[Residency], handle: GraphHandle | None = None, *, ahead: Ahead | None = None
) -> GraphCompiler:
    """A compiler with the pipeline that the settings ask for.

    Raises:
        SettingsError: the option ``passes`` names no pass.
    """
    return GraphCompiler(settings, passes_for(settings), kinds, handle, ahead=ahead)


class GraphCompiler:
    """Compiles the graphs AOTAutograd makes of one of Dynamo's: inference, or forward and backward.

    Args:
        settings: in force.
        passes: the pipeline.
        kinds: of the inputs of Dynamo's graph.
        handle: ties what is built to its model.
        ahead: the function that is to be saved, while one is compiled.
        note: told of each graph.
        builds: whether anything is built; else graphs are planned and run as they are.
        keeps: whether torch may keep compiled graphs.
    """

    def __init__(
        self,
        settings: Settings,
        passes: tuple[Pass, ...],
        kinds: Sequence[Residency],
        handle: GraphHandle | None = None,
        *,
        ahead: Ahead | None = None,
        note: Callable[[CapturedGraph], None] = _HISTORY.append,
        builds: bool = True,
        keeps: bool = True,
    ) -> None:
        self.settings = settings
        self._handle = handle
        self._passes = passes
        self._kinds = kinds
        self._residency: dict[str, Residency] = {}
        self._placer = Placer(settings, handle, passes, note, saved=ahead is not None, builds=builds)
        self._builders: dict[Any, Builder] = {}
        self.partition = partition_of(settings, passes, self._placeholder_kinds)
        self._ahead, self._note, self._builds = ahead, note, builds
        self._cacheable = keeps and keepable(settings)

    def _builder(self, settings: Settings, bound: Sequence[str]) -> Builder:
        # A graph for which the budget has no room has other engines than the next one.
        key = (settings.engine, settings.memory_budget, bound)
        if key not in self._builders:
            self._builders[key] = Builder(settings, bound)
        return self._builders[key]

    def tag(self) -> str:
        """What a kept graph depends on besides the settings."""
        return tag_of(self.settings, self._kinds)

    def through_aot(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Trace, plan and build one of Dynamo's graphs."""
        kept = self._cacheable or self._ahead is not None
        return through_aot(self.compile_traced, self.partition, gm, example_inputs, kept=kept)

    def compile_traced(self, kind: GraphKind, gm: GraphModule, example_inputs: Sequence[Any]) -> Any:
        """Compile one of the graphs that AOTAutograd makes: what it is to call."""
        with compile_session():  # a backward graph comes on the first backward pass, in whichever thread that is
            if not self._builds:
                self._note(self._outlook(kind, gm))
                return make_boxed_func(gm.forward if self.settings.topology is None else unexecuted(gm))
            captured, run, kept = self.compile_aten(kind, gm)
        self._note(captured)
        if self._ahead is not None:
            return self._ahead.graph(captured.srg, captured.plan, captured.builds, run)
        if self._cacheable:
            from djinn_fx.saved.torch_cache import DjinnGraph

            return DjinnGraph(run, kept)
        return make_boxed_func_from(run)

    def compile_aten(self, kind: GraphKind, gm: GraphModule) -> tuple[CapturedGraph, Any, str | None]:
        """Plan and build one ATen graph: what was decided, the boxed callable, its stored form if it has one."""
        captured = self.plan(kind, gm)
        found = self._parted(kind, captured)
        if found is None:
            return self._built(kind, captured)
        part, run, _ = self._built(kind, found.planned(self.plan(kind, found.graph)), len(found.slices.starts))
        return part, InSlices(run, found.slices), None

    def _fitting(self, kind: GraphKind, captured: CapturedGraph) -> CapturedGraph:
        """The graph as it fits into the budget."""
        found = self._parted(kind, captured)
        fitting = captured if found is None else found.planned(self.plan(kind, found.graph))
        slices = 1 if found is None else len(found.slices.starts)
        return within_budget(fitting, self.settings, self._handle, self._kept_inputs, slices)[0]

    def _parted(self, kind: GraphKind, captured: CapturedGraph) -> Parted | None:
        """The graph in slices of its batch, where a budget asks for that."""
        if not self.settings.memory_budget or self._ahead is not None:
            return None

        def plan_of(graph: GraphModule) -> MemoryPlan:
            return planned_memory(graph, kind, self._placeholder_kinds(kind, graph), self._passes)

        return parted(captured, self.settings, self._handle, self._kept_inputs, plan_of)

    @property
    def _kept_inputs(self) -> frozenset[str]:
        """Names of the inputs that the model keeps."""
        return frozenset(name for name, one in self._residency.items() if one not in _PASSING)

    def _built(
        self, kind: GraphKind, captured: CapturedGraph, slices: int = 1
    ) -> tuple[CapturedGraph, Any, str | None]:
        """A graph as it was planned, built."""
        captured, settings, planned = within_budget(captured, self.settings, self._handle, self._kept_inputs, slices)
        srg, plan = captured.srg, captured.plan
        names = contenders(settings, kind, device_of(srg))
        placed = self._placer.built(captured, settings, names)
        if placed is not None:
            return placed
        builder, whole = self._builder(settings, names), in_one_piece(captured, settings, names)
        built = builder.whole(whole) if isinstance(whole, Whole) else None
        cut, refusals = built is None, (whole.work.reasons if isinstance(whole, Whole) else [whole] if whole else [])
        if isinstance(whole, Whole) and built is not None:
            plan = planned_whole(plan, whole, built)
        else:
            plan = replace(plan, reasons=(*plan.reasons, *refusals))
            # What won an earlier trial in the place of the whole graph were regions on engines that bind no weights.
            builder = self._builder(settings, ()) if isinstance(whole, Reason) else builder
            built = builder.build(srg, plan)
        captured = replace(captured, plan=plan, builds=built.builds)
        told: tuple[str, ...] = ()
        if self._handle is not None:
            self._handle.add((*built.callables, *built.standbys))
            told = told_of_refusals(settings, refusals, built.builds) if cut else ()
            self._handle.refused += told if cut else absent(refusals, names)
        program, constants = program_of(srg, plan)
        if not cut:  # of what competes, each sees to its own strides, or the guard does
            program = replace(program, layouts=None)
        arena = None
        if self.settings.arena:
            program, captured, arena = in_arena(program, captured)
            if self._handle is not None and arena is not None:
                self._handle.arenas.append(weakref.ref(arena))
        strays = self._handle.strays() if self._handle is not None else None
        run = executable(program, built.callables, constants, strays, arena)
        if cut and self._ahead is None:
            run = learning(run, program, built, constants, captured, settings, arena)
        run = held_to_budget(run, srg, planned, built.callables)
        # A graph that an engine refused which was asked for is planned anew by each process: the user may have followed
        # the remedy, and is told again if not.
        if isinstance(whole, Whole) and not cut:
            return (
                captured,
                run,
                self._kept_contest(captured, settings, program, constants, built.takers, whole.competing),
            )
        return captured, run, self._kept(program, constants, built.builds) if not told else None

    def _kept(self, program: Program, constants: Mapping[int, Any], builds: Sequence[RegionBuild]) -> str | None:
        """The stored form of a graph, if it has one."""
        if not self._cacheable or constants or self.settings.verify.startswith("sample"):
            return None  # answers that are compared later need the graph's own ops
        from djinn_fx.saved.torch_cache import kept_form

        keys = [one.key if one.alone else "" for one in builds]
        return kept_form(program, keys, self.settings, [one.key for one in builds if one.checked])

    def _kept_contest(
        self,
        captured: CapturedGraph,
        settings: Settings,
        program: Program,
        constants: Mapping[int, Any],
        takers: Mapping[str, str],
        competing: Sequence[str],
    ) -> str | None:
        """The stored form of a graph for which engines compete: of use once the trial is decided."""
        entrants = [{"engine": name, "key": key} for name, key in takers.items() if key]
        if not self._cacheable or constants or not entrants:
            return None
        from djinn_fx.saved.form import form_of_contest

        return form_of_contest(captured.srg, captured.plan, program, entrants, competing, settings)

    def _outlook(self, kind: GraphKind, gm: GraphModule) -> CapturedGraph:
        """The plan, and which engines would rather have the graph whole; nothing is built."""
        planned = self.plan(kind, gm)
        if self.settings.memory_budget:
            planned = or_infeasible(planned, lambda: self._fitting(kind, planned))
        self._placer.note(planned.srg)
        names = contenders(self.settings, kind, device_of(planned.srg))
        plan = outlook(planned.srg, planned.plan, self.settings, names, planned.pricing)
        return replace(planned, plan=plan)

    def plan(self, kind: GraphKind, gm: GraphModule) -> CapturedGraph:
        """Lower one ATen graph and run the passes."""
        srg = lower(gm, kind, self._placeholder_kinds(kind, gm))
        device = device_of(srg)
        with self._placer.planning():
            pricing = self._placer.priced(pricing_for(self.settings, device, self._passes), kind, device)
            context = self._placer.context(srg, pricing)
            passes = passes_of(kind, device, self._passes, self.settings)
            result = run_passes(srg, passes, context, check=self.settings.check_passes)
        plan = plan_of(srg)
        if not plan.order:
            plan = replace(plan, order=tuple(range(len(plan.regions))))
        if kind is GraphKind.FORWARD:
            plan = replace(plan, reasons=(*plan.reasons, *self.partition.reasons))
        put_into_trace(srg, plan)
        for reason in plan.reasons:
            log.info("%s", reason)
        return CapturedGraph(srg=srg, plan=plan, pricing=pricing, pass_timings=tuple(result.timings))

    def _placeholder_kinds(self, kind: GraphKind, gm: GraphModule) -> dict[str, Residency]:
        """Placeholders keep Dynamo's order in the forward; the backward names those it saved from there."""
        placeholders = gm.graph.find_nodes(op="placeholder")
        if kind is GraphKind.BACKWARD:
            return {n.name: self._residency.get(n.name, Residency.ACTIVATION) for n in placeholders}
        found = {}
        for place, node in enumerate(placeholders):
            index = place_of(node, place)
            found[node.name] = self._kinds[index] if index < len(self._kinds) else Residency.INPUT
        self._residency.update(found)
        return found
