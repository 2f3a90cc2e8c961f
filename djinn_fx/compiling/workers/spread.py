"""A graph over workers: its parts sent and compiled there, and planned anew when one is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch._guards import TracingContext
from torch._subclasses.fake_tensor import unset_fake_temporarily

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.readiness import GraphHandle
from djinn_fx.compiling.workers.placing import expected, worker_placing
from djinn_fx.compiling.workers.timed import Timed
from djinn_fx.compiling.workers.told import about
from djinn_fx.dispatch.build import Builder
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import DeviceLostError, EngineError
from djinn_fx.hardware.workers import WorkerLink
from djinn_fx.passes.base import Pass
from djinn_fx.passes.placing.request import Placing
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.remote.graphs.executor import OverWorkers
from djinn_fx.remote.graphs.holding import Holding
from djinn_fx.remote.graphs.parts import CannotRebuild, part_of
from djinn_fx.remote.graphs.placed import PlacedPart
from djinn_fx.remote.workers.measure import learned_links
from djinn_fx.remote.workers.pool import Pool, Wanted, pool_of
from djinn_fx.runtime.devices.modes import watched
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.layouts import Strays
from djinn_fx.runtime.program import program_of
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.effects import is_random, written_nodes
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region
from djinn_fx.srg.record import GraphKind
from djinn_fx.threads import new_rlock
from djinn_fx.units import format_bytes, format_seconds, parse_seconds

log = logging.getLogger("djinn_fx.compiling")

#: Who compiles in a worker.
_BUILD = "djinn_fx.compiling.workers.running:build"


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A pool with what is known of its workers."""

    pool: Pool
    holdings: dict[str, Holding]
    links: dict[str, WorkerLink]


_KNOWN: dict[int, _Known] = {}
_LOCK = new_rlock()


def workers_of(settings: Settings) -> _Known:
    """The workers of the settings, started if they are not there.

    Raises:
        EngineError: they do not start.
        SettingsError: there are none to be had.
    """
    with _LOCK, unset_fake_temporarily():  # what goes to workers has values
        pool = pool_of(
            settings.workers,
            Wanted(build=_BUILD),
            timeout_s=parse_seconds(settings.worker_timeout),  # worker_memory is for each model, and the placement's
        )
        known = _KNOWN.get(id(pool))
        if known is None or known.pool is not pool:
            links = learned_links(pool.workers)
            holdings = {name: Holding(worker) for name, worker in pool.workers.items()}
            _KNOWN.clear()
            known = _KNOWN[id(pool)] = _Known(pool=pool, holdings=holdings, links=links)
        for name, worker in pool.workers.items():
            if known.holdings[name].worker is not worker:  # another took its place
                known.holdings[name] = Holding(worker)
        return known


class Workers:
    """Places graphs on the workers of the settings, and builds them there.

    Args:
        settings: in force.
        passes: the pipeline.
        handle: ties what is built to its model.
        builds: whether anything is built; else nothing is started, and workers are as they are assumed to be.
    """

    def __init__(self, settings: Settings, passes: Sequence[Pass], handle: GraphHandle | None, *, builds: bool) -> None:
        self._settings, self._passes, self._handle, self._builds = settings, passes, handle, builds
        self._told: set[str] = set()

    @property
    def threads(self) -> int:
        """Of each worker; as expected where nothing is started."""
        return workers_of(self._settings).pool.threads if self._builds else expected(self._settings).threads

    def placing(self, kind: GraphKind, device: str) -> Placing:
        """What the passes are to keep to.

        Raises:
            EngineError, SettingsError: as :func:`workers_of`.
        """
        if not self._builds:
            there = expected(self._settings)
            return worker_placing(
                self._settings, self._passes, there.names, kind, device, threads=there.threads, told=(there.reason,)
            )
        known = workers_of(self._settings)
        lost = known.pool.lost()
        return worker_placing(
            self._settings,
            self._passes,
            [name for name in known.pool.workers if name not in lost],
            kind,
            device,
            threads=known.pool.threads,
            links=known.links,
            rooms={name: one.memory_bytes for name, one in known.pool.status(ask=False).items()},
            told=tuple(self._lost(known.pool, name) for name in sorted(lost)),
        )

    def _lost(self, pool: Pool, name: str) -> Reason:
        """That a worker is lost."""
        detail = f"{name} is lost: {pool.workers[name].lost}; what it kept for this process is sent anew to another"
        reason = Reason(kind=ReasonKind.DEVICE_LOST, detail=detail)
        if name not in self._told:
            self._told.add(name)
            log.warning("%s", reason)
            if self._handle is not None:
                self._handle.lost = (*self._handle.lost, reason)
        return reason

    def built(
        self,
        captured: CapturedGraph,
        settings: Settings,
        names: Sequence[str],
        anew: Callable[[CapturedGraph], CapturedGraph],
    ) -> tuple[CapturedGraph, RegionCallable] | None:
        """The graph and what runs it; None if its plan is not for workers.

        Args:
            captured: the graph, planned.
            settings: those in force.
            names: engines that compete for regions that run here.
            anew: places a graph on the workers that are left.

        Raises:
            DeviceLostError: workers are lost while it is built, until none is left.
            EngineError: a region cannot be had by its worker for want of memory.
        """
        known = workers_of(self._settings)
        if not captured.plan.regions or not any(one.device in known.holdings for one in captured.plan.regions):
            return None
        if self._handle is not None:
            self._handle.workers = known.pool.look
        strays = self._handle.strays() if self._handle is not None else Strays()
        raised = _raised(captured.srg)

        def alone(graph: CapturedGraph) -> RegionCallable:
            here = Builder(settings, names).build(graph.srg, graph.plan)
            program, constants = program_of(graph.srg, graph.plan)
            return executable(program, here.callables, constants, strays)

        def again(graph: CapturedGraph) -> tuple[CapturedGraph, RegionCallable]:
            while known.pool.lost() != frozenset(known.pool.workers):
                graph = anew(graph)
                try:
                    return self._over(graph, known, settings, names, strays, raised)
                except DeviceLostError:
                    continue
            for name in sorted(known.pool.lost()):
                self._lost(known.pool, name)
            detail = "no worker is left: the graph runs in this process"
            reason = Reason(kind=ReasonKind.FALLBACK, detail=detail)
            if self._handle is not None:
                self._handle.lost = (*self._handle.lost, reason)
            plan = replace(graph.plan, reasons=(*graph.plan.reasons, reason))
            return replace(graph, plan=plan), alone(graph)

        try:
            placed, run = self._over(captured, known, settings, names, strays, raised)
        except DeviceLostError:
            placed, run = again(captured)
        return placed, _WhatIsLeft(placed, run, alone, again, known.pool)

    def _over(
        self,
        captured: CapturedGraph,
        known: _Known,
        settings: Settings,
        names: Sequence[str],
        strays: Strays,
        raised: frozenset[int],
    ) -> tuple[CapturedGraph, RegionCallable]:
        """The regions compiled on their workers."""
        srg, plan = captured.srg, captured.plan
        program, constants = program_of(srg, plan)
        told = about(settings, same_machine=known.pool.cluster.ours)
        parts: dict[int, PlacedPart] = {}
        builds: dict[int, RegionBuild] = {}
        reasons: list[Reason] = []
        for region in plan.regions:
            try:
                placed = _placed(srg, region, known.holdings, told)
                with unset_fake_temporarily():
                    placed.prepare()
            except DeviceLostError:
                raise
            except (CannotRebuild, EngineError) as error:
                detail = f"{region.label} runs in this process: {error}"
                reasons.append(Reason(kind=ReasonKind.FALLBACK, detail=detail, node=region.label))
                continue
            parts[region.index] = placed
            builds[region.index] = _build(region, placed)
            reasons.append(_told(region, placed))
        here = {region.index: region for region in plan.regions if region.index not in parts}
        callables: dict[int, RegionCallable] = {}
        if here:
            built = Builder(settings, names).build(srg, replace(plan, regions=tuple(here.values())))
            callables = dict(zip(here, built.callables, strict=True))
            builds.update(zip(here, built.builds, strict=True))
        plan = replace(plan, reasons=(*plan.reasons, *reasons))
        captured = replace(captured, plan=plan, builds=tuple(builds[region.index] for region in plan.regions))
        writes_here = any(written_nodes(srg.node(name)) for one in here.values() for name in one.nodes)
        timed = Timed(captured, settings, known.pool.threads, same_machine=known.pool.cluster.ours)
        return captured, OverWorkers(
            program, parts, callables, constants, strays, writes_here=writes_here, raised=raised, told=timed.note
        )


def _placed(srg: SRG, region: Region, holdings: Mapping[str, Holding], told: Mapping[str, Any]) -> PlacedPart:
    """A region for its worker.

    Raises:
        CannotRebuild: it must run here.
    """
    if region.device not in holdings:
        raise CannotRebuild("it could not be cut from what must")
    random = next((name for name in region.nodes if is_random(srg.node(name))), None)
    if random is not None:
        raise CannotRebuild(f"{random} draws random numbers, which are those of this process")
    return PlacedPart(part_of(srg, region), holdings[region.device], told)


def _raised(srg: SRG) -> frozenset[int]:
    """Arguments whose count of writes AOTAutograd raises by one before each call: not a write of the user's.

    Where torch does not say, none: what the graph writes then goes to the workers with each call.
    """
    metadata: Any = getattr(TracingContext.try_get(), "fw_metadata", None)
    if metadata is None or len(metadata.input_info) != len(srg.inputs):
        return frozenset()
    return frozenset(metadata.mutated_graph_handled_indices_seen_by_autograd)


def _build(region: Region, placed: PlacedPart) -> RegionBuild:
    builds = placed.told.get("builds") or [{}]
    names = dict.fromkeys(str(one.get("engine", EAGER)) for one in builds)
    return RegionBuild(
        region=region.index,
        engine=", ".join(names),
        outcome=str(builds[0].get("outcome", "built")),
        seconds=float(placed.told.get("seconds", 0.0)),
        reasons=tuple(Reason.from_json(one) for one in placed.told.get("reasons", [])),
    )


def _told(region: Region, placed: PlacedPart) -> Reason:
    sent = format_bytes(sum(placed.holding.worker.sent.values()))
    detail = (
        f"{region.label} was compiled on {region.device} in {format_seconds(float(placed.told.get('seconds', 0.0)))}; "
        f"{sent} went there so far"
    )
    return Reason(kind=ReasonKind.PLACED, detail=detail, node=region.label)


class _WhatIsLeft:
    """A graph's callable that outlives its workers. A ``RegionCallable``.

    A call whose worker is lost has written nothing here, so it is made again: on the workers that are left, or in this
    process where none is.

    Args:
        captured: the graph as it is planned now.
        run: over the workers.
        alone: what runs a graph in this process.
        again: the graph planned and built anew.
        pool: the workers.
    """

    def __init__(
        self,
        captured: CapturedGraph,
        run: RegionCallable,
        alone: Callable[[CapturedGraph], RegionCallable],
        again: Callable[[CapturedGraph], tuple[CapturedGraph, RegionCallable]],
        pool: Pool,
    ) -> None:
        self._captured, self._run, self._alone, self._again, self._pool = captured, run, alone, again, pool
        self._here: RegionCallable | None = None
        self._lock = new_rlock()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the graph; empties the list.

        Raises:
            InfeasibleError: the workers that are left cannot hold it.
            EngineError: a worker could not do its part.
        """
        if watched():  # a Python mode sees the ops of this thread alone
            with self._lock:
                self._here = self._here or self._alone(self._captured)
            return self._here(args)
        for _ in range(len(self._pool.workers) + 1):
            run = self._run
            try:
                return run(args)
            except DeviceLostError:
                if isinstance(run, OverWorkers) and run.writes_here:
                    raise
                with self._lock:
                    if self._run is run:  # else another thread was here first
                        self._captured, self._run = self._again(self._captured)
        return self._run(args)
