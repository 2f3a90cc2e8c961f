"""Inductor behind engines that may refuse at the last moment: built when no other engine is left to answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.costmodels.laws.build_time import SAVED_SHARE
from djinn_fx.dispatch.contests.pays import EXPERIENCE, Estimate
from djinn_fx.dispatch.entrant import Entrant
from djinn_fx.dispatch.lazy import LazyRegion
from djinn_fx.engines.base import RegionCallable, Runner
from djinn_fx.errors import useful_line
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER, STANDBY

log = logging.getLogger("djinn_fx.dispatch")

#: What has regions built by child processes: the callable of them all, None if there is none, and the regions.
BuildAll = Callable[[], tuple[RegionCallable | None, tuple[LazyRegion, ...]]]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What may be expected of it.

    Attributes:
        ops: of each distinct region, which are to be built.
        least_s: seconds of an answer if all goes its way; None where estimates do not tell engines apart.
    """

    ops: Sequence[int]
    least_s: float | None

    def estimate(self, run_s: float) -> Estimate:
        """What building takes and saves at best, where an answer takes so many seconds now."""
        build_s = sum(EXPERIENCE.build_seconds(STANDBY, count) for count in self.ops)
        saving_s = run_s * SAVED_SHARE[STANDBY] if self.least_s is None else max(0.0, run_s - self.least_s)
        return Estimate(build_s=build_s, saving_s=saving_s)


class Standby(Runner):
    """Regions on Inductor as one engine for all of them. A ``RegionCallable``.

    Args:
        build: has the regions built.
        at_once: they are built without being asked for; else once it may pay, or no other engine is left.
        outlook: what building takes, and what it could save at best; None where nobody knows: it may pay.

    Attributes:
        regions: empty until they are being built.
    """

    def __init__(self, build: BuildAll, *, at_once: bool = False, outlook: Outlook | None = None) -> None:
        self._build, self._at_once, self.outlook = build, at_once, outlook
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

    def pays(self, run_s: float | None, calls: int) -> bool:
        outlook = self._standby.outlook
        return outlook is None or run_s is None or outlook.estimate(run_s).pays(calls)

    def submit(self) -> None:
        self._standby.summon()
