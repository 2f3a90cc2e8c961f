"""What parts on workers of this machine take, kept: a later plan for workers is made by these times."""

from __future__ import annotations

from collections.abc import Mapping

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.learning import Learner, sizes_differ
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.runtime.devices.wear import with_threads
from djinn_fx.settings.table import Settings
from djinn_fx.srg.plan import Region

#: Calls before the first that counts, and calls that do.
WARM, CALLS = 3, 7


class Timed:
    """Takes the seconds of each call's parts, as the workers tell them, until there are enough.

    Only of parts that run on the engine that was asked for: which one wins a trial on a worker is not known here.

    Args:
        captured: the graph, built.
        settings: in force.
        threads: of each worker.
        same_machine: whether they are on this one, of which times are kept.
    """

    def __init__(self, captured: CapturedGraph, settings: Settings, threads: int, *, same_machine: bool) -> None:
        self._left = WARM + CALLS
        self._threads = threads
        self._seconds: dict[int, list[float]] = {}
        wanted = same_machine and Learner.wanted(settings, captured.pricing) and not sizes_differ(captured.srg)
        self._parts: list[tuple[Region, RegionBuild]] = []
        if wanted:
            pairs = zip(captured.plan.regions, captured.builds, strict=True)
            self._parts = [pair for pair in pairs if pair[1].engine == settings.engine]
            self._learner = Learner(settings, captured.pricing)

    def note(self, seconds: Mapping[int, float]) -> None:
        """A call is over. Never raises."""
        if not self._parts or self._left <= 0:
            return
        self._left -= 1
        if self._left < CALLS:
            for index, spent in seconds.items():
                self._seconds.setdefault(index, []).append(spent)
        if not self._left:
            with with_threads(self._threads):  # times are kept by how many there are
                for region, build in self._parts:
                    if found := self._seconds.get(region.index):
                        self._learner.note_time(region, build.engine, found)
