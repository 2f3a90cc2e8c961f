"""Does a build pay? Saving times expected calls against the cost of building.

A build of ``build_s`` seconds that saves ``saving_s`` a call has paid for itself after ``build_s / saving_s`` calls
(the break-even). How many calls are still to come nobody knows; without being told, one expects as many again as there
have been (Lindy's rule: of everything seen for a time T, half lasts T more). Calls that are made while the build runs
gain nothing from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from djinn_fx.costmodels.laws.build_time import SAVED_SHARE, build_seconds
from djinn_fx.threads import new_lock, new_rlock


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a build is expected to cost and save.

    Attributes:
        build_s: seconds of building.
        saving_s: seconds saved by each execution of the region.
    """

    build_s: float
    saving_s: float

    @property
    def break_even(self) -> int | None:
        """Executions after which the build has paid for itself; None if it never does."""
        return math.ceil(self.build_s / self.saving_s) if self.saving_s > 0 else None

    def pays(self, expected: float, per_second: float = 0.0) -> bool:
        """Whether it pays over so many executions still expected, at that rate."""
        gaining = expected - per_second * self.build_s
        return gaining * self.saving_s > self.build_s


class Experience:
    """What builds really took and saved in this process; until something is known, the tables of build_time.

    Build times are kept as one ratio to the prediction, an average in which each new one weighs a quarter: the
    machine's speed is what differs.
    """

    def __init__(self) -> None:
        self._ratio: dict[str, float] = {}
        self._lock = new_lock()

    def built(self, engine: str, ops: int, seconds: float) -> None:
        """A build took so long."""
        ratio = seconds / build_seconds(engine, ops)
        with self._lock:
            known = self._ratio.get(engine)
            self._ratio[engine] = ratio if known is None else 0.75 * known + 0.25 * ratio

    def build_seconds(self, engine: str, ops: int) -> float:
        """How long a build will take."""
        with self._lock:
            return build_seconds(engine, ops) * self._ratio.get(engine, 1.0)

    def estimate(self, engine: str, ops: int, run_s: float, saved_share: float | None = None) -> Estimate:
        """For a region of so many ops.

        Args:
            engine: that it is to be built for.
            ops: how many it has.
            run_s: seconds that it takes to run eagerly.
            saved_share: part of these that the engine is expected to save; None: what was usual in the benches.
        """
        share = SAVED_SHARE.get(engine, 0.0) if saved_share is None else saved_share
        return Estimate(build_s=self.build_seconds(engine, ops), saving_s=run_s * share)


EXPERIENCE = Experience()


class Budget:
    """Seconds of building that may be spent; None for as many as it takes.

    A build reserves what it is predicted to take, and settles for what it took.
    """

    def __init__(self, seconds: float | None) -> None:
        self._left = math.inf if seconds is None else seconds
        # Reentrant: freeing a model settles its builds, and that may happen at any point, also in here.
        self._lock = new_rlock()

    @property
    def left_s(self) -> float:
        """What is left."""
        return self._left

    def reserve(self, seconds: float) -> bool:
        """Take so much, if there is as much."""
        with self._lock:
            if seconds > self._left:
                return False
            self._left -= seconds
            return True

    def settle(self, reserved_s: float, taken_s: float) -> None:
        """Give back what was reserved and take what it was."""
        with self._lock:
            self._left += reserved_s - taken_s
