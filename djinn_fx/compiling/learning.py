"""What calls really take, told to the cost model: by trials between engines, and by a clock around regions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.region_times import RegionTimes, lessons
from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.graph_work import part_of
from djinn_fx.costmodels.learning import Drift, shares
from djinn_fx.costmodels.measured import Timing
from djinn_fx.costmodels.work.work import WorkGraph
from djinn_fx.dispatch.build import Built
from djinn_fx.dispatch.entrant import Dispatcher
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.engines.base import RegionCallable
from djinn_fx.runtime.arena.arena import Arena
from djinn_fx.runtime.program import Program
from djinn_fx.runtime.sampled import Sampled, Times
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG, fake_value
from djinn_fx.srg.plan import Region
from djinn_fx.store.opening import open_store

log = logging.getLogger("djinn_fx.costmodels")


class Learner:
    """Hands what calls really took to the store of times and to what is learned about the model.

    Args:
        settings: in force.
        pricing: by what the graph was priced.
    """

    def __init__(self, settings: Settings, pricing: Pricing) -> None:
        store, _ = open_store(settings)
        self._pricing, self._times, self._lessons = pricing, RegionTimes(store, settings), lessons(store)

    @staticmethod
    def wanted(settings: Settings, pricing: Pricing) -> bool:
        """Whether times teach: they are of this CPU, no call runs eager as well, and no setting says no."""
        here = pricing.times is not None and pricing.device.kind == "cpu"  # a GPU's calls return before it is done
        return settings.cost_model == "auto" and here and not settings.verify.startswith("sample")

    def note(self, region: Region, work: WorkGraph, engine: str, seconds: Sequence[float]) -> None:
        """An engine took so long for some calls of a region. Never raises: a lesson must not break a call."""
        try:
            self._times.note(region.structural_hash, engine, region.label, seconds)
            self._learn(work, engine, Timing.of(seconds).time_s)
        except Exception as error:  # noqa: BLE001 - estimates stay as they are, which is logged
            log.warning("nothing was learned from %s on %s: %s: %s", region.label, engine, type(error).__name__, error)

    def note_time(self, region: Region, engine: str, seconds: Sequence[float]) -> None:
        """As :meth:`note`, of a part of the machine, which teaches nothing about the whole. Never raises."""
        try:
            self._times.note(region.structural_hash, engine, region.label, seconds)
        except Exception as error:  # noqa: BLE001 - estimates stay as they are, which is logged
            log.warning("the time of %s on %s is not kept: %s: %s", region.label, engine, type(error).__name__, error)

    def _learn(self, work: WorkGraph, engine: str, measured_s: float) -> None:
        base, device = self._pricing.base, self._pricing.device
        learned = self._lessons.about(base.name)
        predicted_s = base.region(work, device, engine).time_s
        learned.observe(engine, shares(work, device), predicted_s, measured_s)
        self._lessons.keep(base.name)
        if self._pricing.profile is not None:
            report_drifts(learned.drifts())


_REPORTED: set[tuple[str, str]] = set()


def report_drifts(drifts: Sequence[Drift]) -> None:
    """Log each drift once in this process."""
    for drift in drifts:
        if (drift.engine, drift.kind) not in _REPORTED:
            _REPORTED.add((drift.engine, drift.kind))
            log.warning("%s", drift)


def learning(
    run: RegionCallable,
    program: Program,
    built: Built,
    constants: Mapping[int, Any],
    captured: CapturedGraph,
    settings: Settings,
    arena: Arena | None = None,
) -> RegionCallable:
    """A graph's callable that has its regions timed now and then; the callable itself where that teaches nothing."""
    srg, plan, pricing = captured.srg, captured.plan, captured.pricing
    if not Learner.wanted(settings, pricing) or sizes_differ(srg):
        return run
    learner = Learner(settings, pricing)
    twins: dict[str, int] = {}
    first = [twins.setdefault(region.structural_hash or str(region.index), region.index) for region in plan.regions]
    work = {index: part_of(srg, plan.regions[index].nodes) for index in set(first)}

    def told(times: Times) -> None:
        if any(isinstance(one, Dispatcher) and one.pending for one in built.callables):
            return  # what was timed while builders used the processor says nothing
        together: dict[tuple[int, str], list[float]] = {}
        for (index, engine), seconds in times.items():
            together.setdefault((first[index], engine), []).extend(seconds)
        for (index, engine), seconds in together.items():
            learner.note(plan.regions[index], work[index], engine, seconds)

    engines = engines_of(built)
    return Sampled(run, program, built.callables, constants, engines, told, arena)


def engines_of(built: Built) -> list[Callable[[], str]]:
    """For each region what tells which engine it runs on."""
    return [_engine_of(*pair) for pair in zip(built.callables, built.builds, strict=True)]


def _engine_of(run: RegionCallable, build: RegionBuild) -> Callable[[], str]:
    """Tells which engine a region runs on; a lazy one moves, and each call of a contest may be another's."""
    if isinstance(run, Dispatcher):
        return lambda: run.engine
    return lambda: build.engine


def sizes_differ(srg: SRG) -> bool:
    """Whether sizes differ from call to call, so that a time is not of the work that was planned."""
    return any(
        isinstance(fake_value(node), torch.SymInt) or any(meta.is_symbolic for meta in srg.record(node).outputs)
        for node in srg.inputs
    )
