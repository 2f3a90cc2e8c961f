"""Graphs over the settings' devices: what the passes are told of these, and each device's regions built for it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from djinn_fx.compiling.captured import CapturedGraph, device_of
from djinn_fx.compiling.devices.cuda import cuda_placing, not_spread
from djinn_fx.compiling.devices.elsewhere import placing_elsewhere
from djinn_fx.compiling.devices.homes import HOMES
from djinn_fx.compiling.entry.contenders import contenders
from djinn_fx.compiling.entry.session import compile_session
from djinn_fx.compiling.learning import Learner, engines_of, sizes_differ
from djinn_fx.compiling.readiness import GraphHandle
from djinn_fx.costmodels.choose import Pricing
from djinn_fx.dispatch.build import Builder, Built
from djinn_fx.dispatch.entrant import Dispatcher
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.dispatch.standby import Standby
from djinn_fx.engines.base import RegionCallable
from djinn_fx.errors import DeviceLostError
from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.local import local_topology
from djinn_fx.passes.base import Pass, PassContext, run_passes
from djinn_fx.passes.pipeline import at_place, plan_of
from djinn_fx.passes.placing.request import Placing
from djinn_fx.passes.placing.wanted import placed_forward
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.devices.moving import Moving, Settled
from djinn_fx.runtime.devices.thread import thread_of
from djinn_fx.runtime.devices.wear import is_there, with_threads
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.layouts import Strays
from djinn_fx.runtime.program import Program, program_of
from djinn_fx.runtime.sampled import Sampled, Times
from djinn_fx.settings.devices import CudaDevice, LocalDevice, NamedDevice
from djinn_fx.settings.engines import EAGER, WHOLE
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan
from djinn_fx.srg.record import GraphKind

if TYPE_CHECKING:
    from djinn_fx.compiling.workers.spread import Workers

log = logging.getLogger("djinn_fx.compiling")

_NO_ARENA = Reason(kind=ReasonKind.OUTSIDE_ARENA, detail="values that pass between devices lie in no arena")


class Placer:
    """Places the graphs of one of Dynamo's on the devices of the settings, backward where forward is.

    Args:
        settings: in force.
        handle: ties what is built to its model.
        passes: the pipeline.
        note: told of a graph that is planned anew.
        saved: whether what is made is to be saved: it then runs where it is loaded, on one device.
        builds: whether anything is built; else, where a topology is set, the graphs are planned for that.
    """

    def __init__(
        self,
        settings: Settings,
        handle: GraphHandle | None,
        passes: Sequence[Pass],
        note: Callable[[CapturedGraph], None],
        *,
        saved: bool,
        builds: bool,
    ) -> None:
        self._settings, self._handle, self._passes, self._note = settings, handle, passes, note
        self._elsewhere = placing_elsewhere(settings, passes) if settings.topology is not None and not saved else None
        self._moves_there = self._elsewhere is not None and not builds
        self._named: tuple[NamedDevice, ...] = () if saved else settings.devices or ()
        self._workers = self._made_workers(builds) if settings.workers is not None and not saved else None
        self._lost: frozenset[str] = frozenset()
        self._followed: Mapping[int, str] = {}

    def _made_workers(self, builds: bool) -> Workers:
        from djinn_fx.compiling.workers.spread import Workers  # with the remote rooms, which few graphs need

        return Workers(self._settings, self._passes, self._handle, builds=builds)

    @property
    def _left(self) -> tuple[NamedDevice, ...]:
        """Those that are not lost."""
        return tuple(one for one in self._named if one.name not in self._lost)

    @property
    def _devices(self) -> tuple[LocalDevice, ...]:
        """Of these, processors."""
        return tuple(one for one in self._left if isinstance(one, LocalDevice))

    @property
    def _cuda(self) -> tuple[CudaDevice, ...]:
        """Of these, CUDA devices: the others are none."""
        return tuple(one for one in self._left if isinstance(one, CudaDevice))

    def planning(self) -> contextlib.AbstractContextManager[None]:
        """While this lasts times are those of the device with most processors, of those that are there."""
        self._lost |= self._gone()
        most = max((len(one.cores) for one in self._devices), default=0)
        most = self._workers.threads if self._workers is not None else most
        return with_threads(most) if most and not self._moves_there else contextlib.nullcontext()

    def context(self, srg: SRG, pricing: Pricing) -> PassContext:
        """What the passes may know besides a graph."""
        device, placing = device_of(srg), self.placing(srg.kind, device_of(srg))
        if placing is not None and self._handle is not None:
            placing = replace(placing, settled=HOMES.of(srg, self._handle.memories, self._settings))
        return PassContext(
            device=device,
            expected_calls=self._settings.expected_calls,
            pricing=pricing,
            placing=placing,
            foreseen=None if self._moves_there or srg.kind is GraphKind.BACKWARD else self._elsewhere,
        )

    def _gone(self) -> frozenset[str]:
        """The devices that are lost without anybody having noticed."""
        return frozenset(one.name for one in self._devices if not is_there(one))

    def placing(self, kind: GraphKind, device: str) -> Placing | None:
        """What the passes are to keep to; None: the graph stays on one device.

        Args:
            kind: of the graph.
            device: that its tensors are on.
        """
        if self._elsewhere is not None and self._moves_there:
            return replace(self._elsewhere, followed=self._followed)
        if self._workers is not None:
            return self._workers.placing(kind, device)
        if not self._named:
            return None
        there = {one.name for one in self._left}
        pins = tuple(pin for pin in self._settings.pins if pin.device in there)
        told = tuple(map(self._told, sorted(self._lost)))
        if isinstance(self._named[0], CudaDevice):
            return cuda_placing(self._settings, self._passes, self._cuda, kind, device, pins, told)
        if device != "cpu":
            return not_spread(f"they are processors, and its tensors are on {device}") if device != "meta" else None
        links = [link for link in self._settings.links or () if there.issuperset(link.ends)]
        return Placing(
            devices=self._devices,
            topology=local_topology(self._devices, links, this_machine()),
            pins=pins,
            objective=self._settings.objective,
            whole=any(name in WHOLE for name in contenders(self._settings, kind, device)),
            threads=max((len(one.cores) for one in self._devices), default=1),
            followed={number: name for number, name in self._followed.items() if name in there},
            told=told,
        )

    def _told(self, lost: str) -> Reason:
        """That a device is lost, and which pins that makes void."""
        (device,) = (one for one in self._named if one.name == lost)
        pins = [repr(pin.module) for pin in self._settings.pins if pin.device == lost]
        void = f"; what is pinned to it ({', '.join(pins)}) is placed by cost" if pins else ""
        why = "CUDA gave it up" if isinstance(device, CudaDevice) else f"its processors {list(device.cores)} are gone"
        detail = f"{lost} is lost: {why}; planned without it{void}"
        return Reason(kind=ReasonKind.DEVICE_LOST, detail=detail)

    def priced(self, pricing: Pricing, kind: GraphKind, device: str) -> Pricing:
        """The pricing, with engines that compete for regions first: they serve them, as none takes the graph whole.

        That of the strongest device where the graph is planned for a topology.
        """
        if self._elsewhere is not None and self._moves_there:
            strongest = max(range(len(self._elsewhere.devices)), key=self._elsewhere.strength)
            return self._elsewhere.pricings[self._elsewhere.names[strongest]]
        names = contenders(self._settings, kind, device) if self._devices else ()
        return replace(pricing, engines=tuple(dict.fromkeys((*names, *pricing.engines)))) if names else pricing

    def built(
        self, captured: CapturedGraph, settings: Settings, names: Sequence[str]
    ) -> tuple[CapturedGraph, RegionCallable, None] | None:
        """The graph and what runs it; None if its plan is not for these devices.

        Args:
            captured: the graph, planned.
            settings: those in force, less engines that there is no memory for.
            names: engines that compete for its regions.

        Raises:
            EngineError: an engine failed on a region and the settings say to raise.
        """
        if self._workers is not None:
            return self._on_workers(captured, settings, names, self._workers)
        known = {one.name for one in self._left}
        regions, home = captured.plan.regions, captured.srg.home
        if not regions or not all(region.device in known for region in regions):
            return None
        if home is not None and all(region.device == home for region in regions):
            return None  # as without `devices`
        beside = captured.plan.reasons[len(captured.srg.reasons) :]
        threads = max((len(one.cores) for one in self._devices), default=0)

        def without(lost: frozenset[str]) -> Settled | None:
            self._lose(lost | self._gone())
            if not self._left or home in self._lost:
                return None
            with compile_session(), with_threads(threads) if threads else contextlib.nullcontext():
                anew, settled = self._settled(self._anew(captured, threads, beside), settings, names)
            self._note(anew)
            return settled

        placed, settled = self._settled(captured, settings, names)
        return placed, Moving(settled, without), None

    def _on_workers(
        self, captured: CapturedGraph, settings: Settings, names: Sequence[str], workers: Workers
    ) -> tuple[CapturedGraph, RegionCallable, None] | None:
        """The same on workers."""
        beside = captured.plan.reasons[len(captured.srg.reasons) :]

        def anew(graph: CapturedGraph) -> CapturedGraph:
            with compile_session(), with_threads(workers.threads):
                again = self._anew(graph, workers.threads, beside)
            self._note(again)
            return again

        found = workers.built(captured, settings, names, anew)
        if found is None:
            return None
        self.note(captured.srg)
        return *found, None

    def _settled(
        self, captured: CapturedGraph, settings: Settings, names: Sequence[str]
    ) -> tuple[CapturedGraph, Settled]:
        """The regions built, and what runs them."""
        from djinn_fx.runtime.devices.make import spread_of  # with what runs it, which few graphs need

        srg, plan = captured.srg, captured.plan
        built = self._regions(srg, plan, settings, names)
        self.note(srg)
        strays = None
        if self._handle is not None:
            self._handle.add((*built.callables, *built.standbys))
            strays = self._handle.strays()
        program, constants = program_of(srg, plan)
        captured = replace(captured, builds=built.builds)
        if srg.home is not None:
            return captured, self._over_cuda(captured, program, built, constants, strays)
        links = settings.links or ()

        def make(callables: Sequence[RegionCallable]) -> RegionCallable:
            return spread_of(srg, plan, program, callables, self._devices, links, constants, strays)

        told = (*plan.reasons, *([_NO_ARENA] if settings.arena else []))
        captured = replace(captured, plan=replace(plan, reasons=told))
        run = self._learning(make, program, built, captured, settings)
        used = {region.device for region in plan.regions}
        threads = {one.name: thread_of(one) for one in self._devices if one.name in used}
        alone = executable(program, built.callables, constants, strays)
        return captured, Settled(run=run, alone=alone, threads=threads)

    def _over_cuda(
        self,
        captured: CapturedGraph,
        program: Program,
        built: Built,
        constants: Mapping[int, Any],
        strays: Strays | None,
    ) -> Settled:
        """What runs the regions on their CUDA devices; on one alone, the caller's thread and stream do."""
        from djinn_fx.runtime.devices.cuda.make import cuda_spread  # as above

        srg, plan = captured.srg, captured.plan

        def alone(args: list[Any]) -> list[Any]:
            raise DeviceLostError(f"{srg.home}, which the graph's tensors are on, is lost: nothing can run")

        if all(region.device == srg.home for region in plan.regions):
            run = executable(program, built.callables, constants, strays)
            return Settled(run=run, alone=alone, threads={})
        spread = cuda_spread(srg, plan, program, built.callables, self._cuda, constants, strays)
        threads = {name: one.thread for name, one in spread.places.devices.items()}
        return Settled(run=spread, alone=alone, threads=threads)

    def _lose(self, lost: frozenset[str]) -> None:
        self._lost |= lost
        for name in sorted(lost):
            log.warning("%s", told := self._told(name))
            if self._handle is not None:
                self._handle.lost = (*self._handle.lost, told)

    def _anew(self, captured: CapturedGraph, threads: int, beside: tuple[Reason, ...]) -> CapturedGraph:
        """The graph placed on the devices that are left; nothing else is decided again.

        Args:
            captured: the graph as it was planned.
            threads: that its times are for.
            beside: what is told of it besides what the passes tell.
        """
        srg, device = captured.srg, device_of(captured.srg)
        placing = self.placing(srg.kind, device)
        assert placing is not None, "it was placed on devices of the settings"
        context = PassContext(
            device=device,
            expected_calls=self._settings.expected_calls,
            pricing=captured.pricing,
            placing=replace(placing, threads=threads),
        )
        earlier, again = at_place(self._passes)
        timings = run_passes(srg, again, context, check=self._settings.check_passes, before=earlier).timings
        plan = plan_of(srg)
        plan = replace(plan, reasons=(*plan.reasons, *beside))
        return replace(captured, plan=plan, pass_timings=tuple(timings))

    def note(self, srg: SRG) -> None:
        """Note where a graph is: of a forward graph the backward graph follows, and others over the same weights."""
        if srg.kind is GraphKind.FORWARD:
            self._followed = placed_forward(srg)
        if srg.placement is not None and self._handle is not None and srg.kind is not GraphKind.BACKWARD:
            HOMES.note(srg, self._handle.memories, self._settings)

    def _learning(
        self,
        make: Callable[[Sequence[RegionCallable]], RegionCallable],
        program: Program,
        built: Built,
        captured: CapturedGraph,
        settings: Settings,
    ) -> RegionCallable:
        """What runs the graph, with its regions timed now and then: the next plan knows what they take on a device.

        Own ops are left out: their times are kept without the number of threads.
        """
        run = make(built.callables)
        counts = {len(one.cores) for one in self._devices}
        if not Learner.wanted(settings, captured.pricing) or sizes_differ(captured.srg) or len(counts) > 1:
            return run
        learner, regions, (count,) = Learner(settings, captured.pricing), captured.plan.regions, counts

        def told(times: Times) -> None:
            if any(isinstance(one, Dispatcher) and one.pending for one in built.callables):
                return  # what was timed while builders used the processor says nothing
            with with_threads(count):
                for (index, engine), seconds in times.items():
                    if engine != EAGER:
                        learner.note_time(regions[index], engine, seconds)

        return Sampled(run, program, built.callables, {}, engines_of(built), told, make=make)

    def _regions(self, srg: SRG, plan: Plan, settings: Settings, names: Sequence[str]) -> Built:
        """Each device's regions, built for as many threads as it has processors."""
        found: dict[int, tuple[RegionCallable, RegionBuild]] = {}
        standbys: list[Standby] = []
        for device in self._left:
            mine = tuple(region for region in plan.regions if region.device == device.name)
            if mine:
                cores = len(device.cores) if isinstance(device, LocalDevice) else 0
                with with_threads(cores) if cores else contextlib.nullcontext():
                    built = Builder(settings, names).build(srg, replace(plan, regions=mine))
                for region, run, how in zip(mine, built.callables, built.builds, strict=True):
                    found[region.index] = (run, how)
                standbys += built.standbys
        ordered = [found[index] for index in range(len(plan.regions))]
        return Built(
            callables=tuple(run for run, _ in ordered),
            builds=tuple(how for _, how in ordered),
            standbys=tuple(standbys),
        )
