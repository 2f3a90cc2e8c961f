"""Which engines compete for a graph: those that want it whole, and the plan that cuts it into regions.

OpenVINO, ONNX Runtime and packed linears do best with the whole graph and copies of its weights; Inductor with one
artefact for many layers. So the whole graph is one piece of work, for which each of the former is an entrant of a
contest (``contests/contest.py``), and the plan's regions, run one after the other, are one more. A graph that none of
them takes whole is cut, and they are asked for each region.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from djinn_fx.compiling.forecast import by_forecast, expected, forecast, left_out
from djinn_fx.compiling.learning import Learner
from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.graph_work import graph_work
from djinn_fx.dispatch.build import Builder, Built, tier_names
from djinn_fx.dispatch.contests.by_size import ContestBySize
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.contestants import Contestants
from djinn_fx.dispatch.contests.decisions import Decision, Outcomes, decision_key
from djinn_fx.dispatch.lazy import LazyRegion
from djinn_fx.dispatch.region import RegionBuild, region_graph
from djinn_fx.dispatch.standby import Standby
from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.keys import symbol_places
from djinn_fx.engines.registry import engine
from djinn_fx.passes.find_regions import whole_region
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, program_of
from djinn_fx.settings.engines import BOUND, EAGER, STANDBY, WHOLE
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.srg.record import GraphKind
from djinn_fx.store.opening import open_store
from djinn_fx.threads import start_thread
from djinn_fx.units import format_seconds


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A graph for which engines compete.

    Attributes:
        plan: with the whole graph as its one region.
        run: the graph's callable.
        program: what it runs.
        constants: of the program.
        callables: the contest, and regions that are built in the background: what a user may wait for.
        build: how the region got its callable.
    """

    plan: Plan
    run: RegionCallable
    program: Program
    constants: Mapping[int, Any]
    callables: tuple[Any, ...]
    build: RegionBuild


def contenders(settings: Settings, kind: GraphKind, device: str) -> tuple[str, ...]:
    """The engines of :data:`BOUND` that the settings want for such a graph and that are installed.

    An engine that the settings name is in even if its library is missing: that is then said.
    """
    if kind is not GraphKind.INFERENCE or not device.startswith("cpu"):
        return ()
    if settings.engine == "auto":
        return tuple(name for name in WHOLE if engine(name, settings).capability().can_run)
    return tuple(name for name in settings.engines if name in BOUND)


def compete(
    srg: SRG, plan: Plan, settings: Settings, names: Sequence[str], pricing: Pricing
) -> Chosen | Sequence[Reason]:
    """Have these engines compete for a graph; the Reasons, if none of them takes it whole."""
    names = [name for name in names if name in WHOLE]
    if not names:
        return ()
    region = whole_region(srg)
    if region is None:
        return ()
    region = expected(srg, plan, region, settings, names, pricing)
    return _Choice(srg, plan, settings, region, names, pricing).make()


def outlook(srg: SRG, plan: Plan, settings: Settings, names: Sequence[str], pricing: Pricing) -> Plan:
    """The plan, and which of these engines would take the graph whole and why others would not; nothing is built."""
    names = [name for name in names if name in WHOLE]
    region = whole_region(srg) if names else None
    if region is None:
        return plan
    graph = region_graph(srg, region)
    refusals = {name: engine(name, settings).supports(graph) for name in names}
    takers = [name for name, reason in refusals.items() if reason is None]
    told = [reason for reason in refusals.values() if reason is not None]
    if takers:
        detail = f"{', '.join(takers)} would rather have the whole graph; a trial decides between them and the regions"
        region = expected(srg, plan, region, settings, takers, pricing)
        told += [Reason(kind=ReasonKind.WHOLE, detail=detail), *forecast(region)]
        plan = replace(plan, times=region.times)
    return replace(plan, reasons=(*plan.reasons, *told))


class _Choice:
    """One graph on its way to a contest."""

    def __init__(
        self, srg: SRG, plan: Plan, settings: Settings, region: Region, names: Sequence[str], pricing: Pricing
    ) -> None:
        self._names, self._pricing = tuple(names), pricing
        self._srg, self._plan, self._settings, self._region = srg, plan, settings, region
        self._graph = region_graph(srg, region)
        self._store, _ = open_store(settings)

    def make(self) -> Chosen | Sequence[Reason]:
        """The contest; the Reasons, if no engine takes the graph whole, or another one was found to be the fastest."""
        names = self._names
        places = symbol_places(self._graph.example_inputs)
        known = None if places else self._memory(()).known
        if known is not None and known.engine not in (EAGER, *names):
            return (_chosen_before(known, self._region),)
        if known is not None and known.engine in names:
            names = (known.engine,)
        whole = replace(self._plan, regions=(self._region,), order=(0,), transfers=())
        builder = Builder(self._settings, mode="blocking")
        wanted, hopeless = by_forecast(self._region, names) if self._settings.engine == "auto" else (names, ())
        made, reasons = builder.each(self._srg, whole, self._region, wanted)
        if not made and hopeless:
            made, more = builder.each(self._srg, whole, self._region, hopeless)
            reasons, hopeless = [*reasons, *more], ()
        if not made:
            return reasons
        program, constants = program_of(self._srg, whole)
        program = replace(program, layouts=None)  # of what competes, each sees to its own strides, or the guard does
        cut = self._cut()
        eager = EagerEngine()
        reference = eager.load(eager.compile(self._graph))
        contest = functools.partial(self._contest, Contestants(self._graph, made, reference, self._settings), cut)
        run: Any = ContestBySize(places, contest) if places else contest(())
        takers = ", ".join(one.tier.name for one in made)
        told = [Reason(kind=ReasonKind.WHOLE, detail=f"one region: {takers} would rather have it whole")]
        told += [*forecast(self._region), *(left_out(self._region, name) for name in hopeless)]
        plan = replace(whole, cost=self._region.cost, times=self._region.times, reasons=(*self._plan.reasons, *told))
        build = RegionBuild(
            region=0,
            engine=made[0].tier.name,
            outcome="built",
            seconds=0.0,
            key=made[0].loaded.key,
            # Who won an earlier trial has been checked on this machine: it needs nothing beside it any more.
            alone=known is not None and known.engine == made[0].tier.name,
            checked=self._settings.verify == "first",
            reasons=tuple(reasons),
        )
        return Chosen(
            plan=plan,
            run=executable(program, [run], constants),
            program=program,
            constants=constants,
            callables=(run, *([cut] if cut is not None else [])),
            build=build,
        )

    def _key(self, sizes: Sequence[int]) -> str:
        """Under which the outcome is kept: all engines that could take part count; empty if it cannot be kept."""
        if not self._graph.structural_hash:
            return ""
        named = (*self._names, *tier_names(self._settings))
        engines = [engine(name, self._settings) for name in named]
        fingerprints = [one.fingerprint() for one in engines if one.capability().can_build]
        return decision_key(self._graph.structural_hash, self._graph.weights, sizes, fingerprints)

    def _memory(self, sizes: Sequence[int]) -> Outcomes:
        return Outcomes(self._store, self._key(sizes), self._region.label)

    @property
    def _tries_inductor(self) -> bool:
        """Whether Inductor takes part by the settings' will, not only when all others refuse."""
        return self._settings.engine == "auto" or STANDBY in self._settings.engines

    def _cut(self) -> Standby | None:
        """The plan's regions on Inductor: to be tried, or for when all others refuse and own ops are not asked for."""
        if not self._tries_inductor and EAGER in self._settings.engines:
            return None
        background = self._settings.compile == "background" and self._tries_inductor

        def build() -> tuple[RegionCallable, tuple[LazyRegion, ...]]:
            built = Builder(self._settings, mode="background" if background else "lazy").build(self._srg, self._plan)
            lazy = {id(one): one for one in built.callables if isinstance(one, LazyRegion)}
            return self._as_whole(built), tuple(lazy.values())

        cut = Standby(build, at_once=background)
        if background:
            cut.build()
        return cut

    def _as_whole(self, built: Built) -> RegionCallable:
        """The plan's regions, one after the other, with the inputs and outputs of the whole region."""
        program, constants = program_of(self._srg, self._plan)
        returned = list(self._srg.output.args[0])  # type: ignore[arg-type]
        names = [getattr(node, "name", None) for node in returned]
        results = tuple(program.results[names.index(name)] for name in self._region.outputs)
        run = executable(replace(program, results=results), built.callables, constants)
        if len(self._region.inputs) == program.arguments:
            return run

        def without_constants(args: list[Any]) -> Sequence[Any]:
            del args[program.arguments :]  # its program has them itself
            return run(args)

        return without_constants

    def _contest(self, contestants: Contestants, cut: Standby | None, sizes: Sequence[int]) -> Contest:
        """The contest for calls of about these sizes."""
        memory = self._memory(sizes)
        return contestants.contest(
            *([cut.entrant()] if cut is not None and self._tries_inductor else []),
            standby=cut if not self._tries_inductor else None,
            memory=memory,
            timed=None if sizes else self._learning(),
        )

    def _learning(self) -> Callable[[Mapping[str, Sequence[float]]], None] | None:
        """Takes what the engines' answers took; of a graph whose sizes are always the same."""
        if not Learner.wanted(self._settings, self._pricing):
            return None
        learner, region, work = Learner(self._settings, self._pricing), self._region, graph_work(self._srg).whole

        def note(seconds: Mapping[str, Sequence[float]]) -> None:
            for name, times in seconds.items():
                learner.note(region, work, name, times)

        def learn(seconds: Mapping[str, Sequence[float]]) -> None:
            start_thread(functools.partial(note, seconds), "djinn learns")

        return learn


def _chosen_before(known: Decision, region: Region) -> Reason:
    others = {name: seconds for name, seconds in known.seconds.items() if name != known.engine}
    second = min(others, key=lambda name: others[name], default=None)
    return Reason(
        kind=ReasonKind.ENGINE_CHOSEN,
        detail=f"{known.engine}: the fastest in the trial of {known.created}",
        node=region.label,
        runner_up=second,
        runner_up_cost=f"{format_seconds(others[second])} a call" if second is not None else None,
    )
