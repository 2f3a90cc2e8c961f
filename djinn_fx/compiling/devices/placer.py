"""Graphs over the settings' devices: what the passes are told of these, and each device's regions built for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.choice import contenders
from djinn_fx.compiling.learning import Learner, engines_of, sizes_differ
from djinn_fx.compiling.readiness import GraphHandle
from djinn_fx.costmodels.choose import Pricing
from djinn_fx.dispatch.build import Builder, Built
from djinn_fx.dispatch.entrant import Dispatcher
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.dispatch.standby import Standby
from djinn_fx.engines.base import RegionCallable
from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.local import local_topology
from djinn_fx.passes.placing.request import Placing
from djinn_fx.passes.placing.wanted import placed_forward
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.devices.wear import with_threads
from djinn_fx.runtime.program import Program, program_of
from djinn_fx.runtime.sampled import Sampled, Times
from djinn_fx.settings.devices import LocalDevice
from djinn_fx.settings.engines import EAGER, WHOLE
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan
from djinn_fx.srg.record import GraphKind

_NO_ARENA = Reason(kind=ReasonKind.OUTSIDE_ARENA, detail="values that pass between devices lie in no arena")


class Placer:
    """Places the graphs of one of Dynamo's on the devices of the settings, backward where forward is.

    Args:
        settings: in force.
        handle: ties what is built to its model.
        saved: whether what is made is to be saved: it then runs where it is loaded, on one device.
    """

    def __init__(self, settings: Settings, handle: GraphHandle | None, *, saved: bool) -> None:
        self._settings, self._handle = settings, handle
        self._devices: tuple[LocalDevice, ...] = () if saved else settings.devices or ()
        self._followed: Mapping[int, str] = {}

    def planning(self) -> contextlib.AbstractContextManager[None]:
        """While this lasts times are those of the device with most processors."""
        most = max((len(one.cores) for one in self._devices), default=0)
        return with_threads(most) if most else contextlib.nullcontext()

    def placing(self, kind: GraphKind, device: str) -> Placing | None:
        """What the passes are to keep to; None: the graph stays on one device.

        Args:
            kind: of the graph.
            device: that its tensors are on.
        """
        if not self._devices or device != "cpu":
            return None
        return Placing(
            devices=self._devices,
            topology=local_topology(self._devices, self._settings.links or (), this_machine()),
            pins=self._settings.pins,
            objective=self._settings.objective,
            whole=any(name in WHOLE for name in contenders(self._settings, kind, device)),
            threads=max(len(one.cores) for one in self._devices),
            followed=self._followed,
        )

    def priced(self, pricing: Pricing, kind: GraphKind, device: str) -> Pricing:
        """The pricing, with engines that compete for regions first: they serve them, as none takes the graph whole."""
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
        srg, plan = captured.srg, captured.plan
        known = {one.name for one in self._devices}
        if not plan.regions or not all(region.device in known for region in plan.regions):
            return None
        from djinn_fx.runtime.devices.make import spread_of  # with what runs it, which few graphs need

        built = self._regions(srg, plan, settings, names)
        if srg.kind is GraphKind.FORWARD:
            self._followed = placed_forward(srg)
        strays = None
        if self._handle is not None:
            self._handle.add((*built.callables, *built.standbys))
            strays = self._handle.strays()
        program, constants = program_of(srg, plan)
        links = settings.links or ()

        def make(callables: Sequence[RegionCallable]) -> RegionCallable:
            return spread_of(srg, plan, program, callables, self._devices, links, constants, strays)

        told = (*plan.reasons, *([_NO_ARENA] if settings.arena else []))
        captured = replace(captured, plan=replace(plan, reasons=told), builds=built.builds)
        return captured, self._learning(make, program, built, captured, settings), None

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
        for device in self._devices:
            mine = tuple(region for region in plan.regions if region.device == device.name)
            if mine:
                with with_threads(len(device.cores)):
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
