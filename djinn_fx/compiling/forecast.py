"""What engines are expected to take for a whole graph: in which order they are tried, and which need not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.graph_work import part_of, priced
from djinn_fx.dispatch.contests.trial import HOPELESS
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER, STANDBY
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import EngineTime, Plan, Region, together
from djinn_fx.units import format_seconds


def expected(
    srg: SRG, plan: Plan, region: Region, settings: Settings, names: Sequence[str], pricing: Pricing
) -> Region:
    """The whole graph with what these engines would take for it, and eager, and the plan's regions on Inductor; the
    fastest first."""
    made = priced(region, part_of(srg, region.nodes), pricing, (*names, EAGER))
    times = list(made.times)
    if settings.engine == "auto" or STANDBY in settings.engines:
        parts = [time for one in plan.regions if (time := one.time_on(STANDBY)) is not None]
        if len(parts) == len(plan.regions):
            times.append(together(STANDBY, parts))
    first = min(times, key=lambda one: one.time_s)
    cost = replace(made.cost, time_s=first.time_s, low_s=first.low_s, high_s=first.high_s, provenance=first.provenance)
    return replace(made, cost=cost, times=tuple(sorted(times, key=lambda one: one.time_s)))


def by_forecast(region: Region, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Engines in the order of what they are expected to take, and those that need not be tried.

    Not tried is who would be out of the trial after two answers even if all goes its way: the lower end of its interval
    is above :data:`HOPELESS` times the upper end of the fastest one's.
    """
    times = {one.engine: one for one in region.times if one.tells}
    if not set(names) <= set(times):
        return tuple(names), ()
    ordered = sorted(names, key=lambda name: times[name].time_s)
    limit_s = HOPELESS * times[ordered[0]].high_s
    tried = tuple(name for name in ordered if times[name].low_s <= limit_s)
    return tried, tuple(name for name in ordered if name not in tried)


def forecast(region: Region) -> tuple[Reason, ...]:
    """Which engine is expected to be the fastest; nothing where estimates do not tell engines apart."""
    telling = [one for one in region.times if one.tells]
    if len(telling) < 2:
        return ()
    first, second = telling[:2]
    detail = f"expected to be the fastest: {first.engine}, {_told(first)}"
    return (Reason(kind=ReasonKind.PRICED, detail=detail, runner_up=second.engine, runner_up_cost=_told(second)),)


def left_out(region: Region, name: str) -> Reason:
    """Why an engine is not tried."""
    time, first = region.time_on(name), region.times[0]
    assert time is not None, "left out by its time"
    return Reason(
        kind=ReasonKind.ENGINE_REFUSED,
        detail=f"{name}: not tried: expected to take {_told(time)}",
        node=region.label,
        runner_up=first.engine,
        runner_up_cost=_told(first),
    )


def _told(time: EngineTime) -> str:
    low, high = format_seconds(time.low_s), format_seconds(time.high_s)
    return f"{format_seconds(time.time_s)} a call ({low} to {high}, {time.provenance})"
