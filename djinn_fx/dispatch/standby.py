"""Inductor behind engines that may refuse at the last moment: built when no other engine is left to answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from djinn_fx.dispatch.entrant import Entrant
from djinn_fx.dispatch.lazy import LazyRegion
from djinn_fx.engines.base import RegionCallable, Runner
from djinn_fx.errors import useful_line
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER, STANDBY

log = logging.getLogger("djinn_fx.dispatch")

#: What has regions built by child processes: the callable of them all, None if there is none, and the regions.
BuildAll = Callable[[], tuple[RegionCallable | None, tuple[LazyRegion, ...]]]


class Standby(Runner):
    """Regions on Inductor as one engine for all of them. A ``RegionCallable``.

    Args:
        build: has the regions built.
        at_once: they are built without being asked for; else once no other engine is left.

    Attributes:
        regions: empty until they are being built.
    """

    def __init__(self, build: BuildAll, *, at_once: bool = False) -> None:
        self._build, self._at_once = build, at_once
        self._run: RegionCallable | None = None
        self._lock = threading.Lock()
        self._begun, self._over = False, False
        #: Why there is nothing to run.
        self.reason: Reason | None = None
        self.regions: tuple[LazyRegion, ...] = ()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the regions, one after the other."""
        assert self._run is not None, "only called once it has arrived"
        return self._run(args)

    def entrant(self) -> Entrant:
        """It, for a contest."""
        return _Regions(self, reserve=not self._at_once)

    def begin(self) -> None:
        """Have the regions built, if that is not to wait until they are asked for."""
        if self._at_once:
            self.build()

    def build(self) -> None:
        """Have the regions built, once."""
        with self._lock:
            begun, self._begun = self._begun, True
        if begun:
            return
        try:
            self._run, self.regions = self._build()
        except Exception as error:  # in the middle of a call that own ops can answer
            self.reason = Reason(kind=ReasonKind.FALLBACK, detail=f"{STANDBY}: {useful_line(error)}")
            log.warning("%s", self.reason.detail, exc_info=True)
        finally:
            self._over = True

    def summon(self) -> None:
        """Have the regions built now, since no other engine is left."""
        self.build()
        for region in self.regions:
            region.submit_all()

    def building(self) -> bool:
        """Whether a region is waiting to be built, or being built."""
        return (self._begun and not self._over) or any(one.pending for one in self.regions)

    def arrived(self) -> bool:
        """Whether every region runs on Inductor."""
        for region in self.regions:
            region.consider()  # a build that failed for the time being is tried again when it is time
        return self._run is not None and not any(one.pending or one.engine == EAGER for one in self.regions)


class _Regions(Entrant):
    """What stands by, in one contest."""

    late = True

    def __init__(self, standby: Standby, *, reserve: bool) -> None:
        super().__init__(STANDBY, standby)
        self._standby, self.reserve = standby, reserve

    @property
    def building(self) -> bool:
        return self._standby.building()

    def arrived(self) -> bool:
        return self._standby.arrived()

    def submit(self) -> None:
        self._standby.summon()
