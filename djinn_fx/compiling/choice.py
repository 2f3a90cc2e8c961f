"""Which engines compete for a graph: those that want it whole, and the plan that cuts it into regions.

OpenVINO, ONNX Runtime and packed linears do best with the whole graph and copies of its weights; Inductor with one
artefact for many layers. So the whole graph is one piece of work, for which each of the former is an entrant of a
contest (``contests/contest.py``), and the plan's regions, run one after the other, are one more. A graph that none of
them takes whole is cut, and they are asked for each region.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from djinn_fx.compiling.captured import CapturedGraph, device_of
from djinn_fx.compiling.entry.contenders import contenders
from djinn_fx.compiling.forecast import by_forecast, expected, forecast, left_out
from djinn_fx.compiling.learning import Learner
from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.graph_work import graph_work
from djinn_fx.dispatch.build import Builder, Built, Whole
from djinn_fx.dispatch.contests.decisions import Outcomes, chosen_before, decision_key, fingerprints_of, guess_key
from djinn_fx.dispatch.lazy import LazyRegion
from djinn_fx.dispatch.region import RegionWork, distinct_first, region_graph
from djinn_fx.dispatch.standby import Outlook, Standby
from djinn_fx.dispatch.tier import tier_names
from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.registry import engine, import_runtime
from djinn_fx.errors import SettingsError
from djinn_fx.passes.base import Pass
from djinn_fx.passes.find_regions import FindRegions, whole_region
from djinn_fx.passes.memory.order_ops import OrderOps
from djinn_fx.passes.pipeline import DEFAULT, parse_passes
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import program_of, with_arena
from djinn_fx.settings.engines import EAGER, STANDBY, WHOLE
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.srg.record import GraphKind
from djinn_fx.store.opening import open_store
from djinn_fx.threads import start_thread


def passes_for(settings: Settings) -> tuple[Pass, ...]:
    """The pipeline these settings ask for.

    Raises:
        SettingsError: the option ``passes`` names no pass.
    """
    if settings.passes is not None:
        passes = parse_passes(settings.passes)
        if not any(one.name == FindRegions.name for one in passes):
            raise SettingsError("option 'passes': the pipeline needs find-regions, else there is nothing to run")
        return passes
    regions = FindRegions(max_boundary_share=settings.max_boundary_share, whole=settings.regions == "whole")
    return tuple(regions if one.name == FindRegions.name else one for one in DEFAULT)


def passes_of(kind: GraphKind, device: str, passes: tuple[Pass, ...], settings: Settings) -> tuple[Pass, ...]:
    """Those of the passes that a graph gains from.

    One that is cut for an engine which orders a region's ops by itself keeps its order: more layers are alike in it.
    """
    as_written = settings.engine == EAGER or settings.activation_budget or contenders(settings, kind, device)
    if as_written or settings.passes is not None:
        return passes
    return tuple(one for one in passes if one.name != OrderOps.name)


def in_one_piece(captured: CapturedGraph, settings: Settings, names: Sequence[str]) -> Whole | Reason | None:
    """How these engines are to compete for a graph; a Reason, if the cut plan won before; None: it is cut anyway."""
    names = [name for name in names if name in WHOLE]
    region = whole_region(captured.srg) if names else None
    if region is None:
        return None
    region = expected(captured.srg, captured.plan, region, settings, names, captured.pricing)
    return _Choice(captured, settings, region, names).make()


def planned_whole(plan: Plan, whole: Whole, built: Built) -> Plan:
    """The plan with the whole graph as its one region, and why."""
    region = whole.work.region
    takers = ", ".join(built.takers)
    told = [Reason(kind=ReasonKind.WHOLE, detail=f"one region: {takers} would rather have it whole")]
    told += forecast(region)
    if not set(built.takers) & set(whole.hopeless):
        told += [left_out(region, name) for name in whole.hopeless]
    return replace(as_one(plan, region), cost=region.cost, times=region.times, reasons=(*plan.reasons, *told))


def as_one(plan: Plan, region: Region) -> Plan:
    """A plan whose one region is the whole graph."""
    return replace(plan, regions=(region,), order=(0,), transfers=())


def outlook(srg: SRG, plan: Plan, settings: Settings, names: Sequence[str], pricing: Pricing) -> Plan:
    """The plan, and which of these engines would take the graph whole and why others would not; nothing is built."""
    names = [name for name in names if name in WHOLE]
    placed = any(
        region.device != device_of(srg) for region in plan.regions
    )  # on the settings' devices, not in one piece
    region = whole_region(srg) if names and not placed else None
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

    def __init__(self, captured: CapturedGraph, settings: Settings, region: Region, names: Sequence[str]) -> None:
        self._names, self._pricing = tuple(names), captured.pricing
        self._srg, self._plan, self._settings = captured.srg, captured.plan, settings
        self._work = RegionWork.of(captured.srg, as_one(captured.plan, region), region)
        self._store, _ = open_store(settings)

    def make(self) -> Whole | Reason:
        """How they are to compete; a Reason, if another engine was found to be the fastest."""
        names, region = self._names, self._work.region
        known = None if self._work.places else self._memory(()).known
        if known is not None and not known.over:
            known = None  # the trial goes on, between all
        if known is not None and known.engine not in (EAGER, *names):
            return chosen_before(known, region.label)
        if known is not None and known.engine in names:
            names = (known.engine,)
        wanted, hopeless = by_forecast(region, names) if self._settings.engine == "auto" else (names, ())
        untried = self._tries_inductor and (known is None or STANDBY not in known.seconds)
        if untried:
            import_runtime(STANDBY)  # here, where the user waits anyway: in a thread it would hold up calls
        return Whole(
            work=self._work,
            wanted=wanted,
            hopeless=hopeless,
            standby=self._cut(untried and self._settings.compile == "background"),
            tried=self._tries_inductor,
            outcomes=self._memory,
            competing=self._competing,
            timed=self._learning(),
        )

    def _key(self, sizes: Sequence[int]) -> str:
        """Under which the outcome is kept: all engines that could take part count; empty if it cannot be kept."""
        if not self._work.graph.structural_hash:
            return ""
        fingerprints = fingerprints_of(self._competing, self._settings)
        return decision_key(self._work.graph.structural_hash, self._work.graph.weights, sizes, fingerprints)

    @property
    def _competing(self) -> tuple[str, ...]:
        """The engines under which the outcome is noted, whether or not they take the graph."""
        return tuple(dict.fromkeys((*self._names, *tier_names(self._settings))))

    def _memory(self, sizes: Sequence[int]) -> Outcomes:
        key, graph = self._key(sizes), self._work.graph
        guess = guess_key(graph.structural_hash, graph.weights) if key and not sizes else ""
        return Outcomes(self._store, key, self._work.region.label, guess=guess)

    @property
    def _tries_inductor(self) -> bool:
        """Whether Inductor takes part by the settings' will, not only when all others refuse."""
        return self._settings.engine == "auto" or STANDBY in self._settings.engines

    def _cut(self, at_once: bool) -> Standby | None:
        """The plan's regions on Inductor: to be tried, or for when all others refuse and own ops are not asked for."""
        if not self._tries_inductor and EAGER in self._settings.engines:
            return None
        # To be tried it is built while another engine serves, so nobody waits for it.
        settings = (
            self._settings.model_copy(update={"compile": "background"}) if self._tries_inductor else self._settings
        )

        def build() -> tuple[RegionCallable, tuple[LazyRegion, ...]]:
            built = Builder(settings, mode="background" if at_once else "lazy").build(self._srg, self._plan)
            lazy = {id(one): one for one in built.callables if isinstance(one, LazyRegion)}
            return self._as_whole(built), tuple(lazy.values())

        return Standby(build, at_once=at_once, outlook=self._outlook())

    def _outlook(self) -> Outlook:
        """What Inductor would have to build, and what it would take at best."""
        ops = [len(region.nodes) for region in distinct_first(self._plan.regions)]
        time = self._work.region.time_on(STANDBY)
        return Outlook(ops=ops, least_s=time.low_s if time is not None and time.tells else None)

    def _as_whole(self, built: Built) -> RegionCallable:
        """The plan's regions, one after the other, with the inputs and outputs of the whole region."""
        program, constants = program_of(self._srg, self._plan)
        returned = list(self._srg.output.args[0])  # type: ignore[arg-type]
        names = [getattr(node, "name", None) for node in returned]
        results = tuple(program.results[names.index(name)] for name in self._work.region.outputs)
        if self._settings.arena:
            program, _ = with_arena(program, self._srg, self._plan)
        run = executable(replace(program, results=results), built.callables, constants)
        if len(self._work.region.inputs) == program.arguments:
            return run

        def without_constants(args: list[Any]) -> Sequence[Any]:
            del args[program.arguments :]  # its program has them itself
            return run(args)

        return without_constants

    def _learning(self) -> Callable[[Mapping[str, Sequence[float]]], None] | None:
        """Takes what the engines' answers took; of a graph whose sizes are always the same."""
        if not Learner.wanted(self._settings, self._pricing):
            return None
        learner, region, work = Learner(self._settings, self._pricing), self._work.region, graph_work(self._srg).whole

        def note(seconds: Mapping[str, Sequence[float]]) -> None:
            for name, times in seconds.items():
                learner.note(region, work, name, times)

        def learn(seconds: Mapping[str, Sequence[float]]) -> None:
            start_thread(functools.partial(note, seconds), "djinn learns", beside=True)

        return learn
