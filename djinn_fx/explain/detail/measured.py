"""What runs of regions took on this machine, where calls were timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CapturedGraph


@dataclass(frozen=True, kw_only=True)
class RegionTime:
    """Measured times of a region on the engine that runs it.

    Attributes:
        region: its index.
        engine: on what it was timed.
        time_s: median seconds of a call.
        low_s: a tenth of the calls took less.
        high_s: a tenth of the calls took more.
        calls: that were timed.
        made: when, ISO 8601.
    """

    region: int
    engine: str
    time_s: float
    low_s: float
    high_s: float
    calls: int
    made: str


def measured(captured: CapturedGraph) -> tuple[RegionTime, ...]:
    """The regions that were built and of which times are kept; none for those that run elsewhere."""
    known = captured.pricing.times
    placement = captured.plan.placement
    if known is None or (placement is not None and placement.elsewhere):
        return ()
    found = []
    for build in captured.builds:
        timing = known.time(captured.plan.regions[build.region].structural_hash, build.engine)
        if timing is not None:
            one = RegionTime(
                region=build.region,
                engine=build.engine,
                time_s=timing.time_s,
                low_s=timing.low_s,
                high_s=timing.high_s,
                calls=timing.calls,
                made=timing.made,
            )
            found.append(one)
    return tuple(found)
