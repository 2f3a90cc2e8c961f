"""Times that were measured on this machine: the best estimate of a region is its own last time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from djinn_fx.costmodels.estimate import MEASURED, Estimate

#: The interval of a measured time reaches at least this far to either side, as a share: medians of the same work in
#: two processes on a quiet machine differ by so much (``bench/harness/machine.py`` measures it).
LEAST_SPREAD = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long exactly this work took here.

    Attributes:
        time_s: median seconds of a call.
        low_s: a tenth of the calls took less.
        high_s: a tenth of the calls took more.
        calls: that were timed.
        made: when, ISO 8601.
    """

    time_s: float
    low_s: float
    high_s: float
    calls: int
    made: str = ""

    @classmethod
    def of(cls, seconds: Sequence[float], made: str = "") -> Timing:
        """The timing of these calls.

        Raises:
            ValueError: there is none, or one took no time.
        """
        ordered = sorted(seconds)
        if not ordered or not ordered[0] > 0:
            raise ValueError("a timing needs calls that took time")
        last = len(ordered) - 1
        middle = (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
        return cls(
            time_s=middle,
            low_s=ordered[round(0.1 * last)],
            high_s=ordered[round(0.9 * last)],
            calls=len(ordered),
            made=made,
        )

    @property
    def estimate(self) -> Estimate:
        """What the next calls will take."""
        return Estimate(
            time_s=self.time_s,
            low_s=min(self.low_s, (1 - LEAST_SPREAD) * self.time_s),
            high_s=max(self.high_s, (1 + LEAST_SPREAD) * self.time_s),
            provenance=MEASURED,
        )


class KnownTimes(Protocol):
    """Where measured times are kept (``compiling/region_times.py``)."""

    def time(self, structural_hash: str, engine: str) -> Timing | None:
        """What a region took on an engine, here and with these versions and threads; None if nobody knows."""
        ...
