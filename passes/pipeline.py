"""The default pipeline, readable top to bottom, and the table of passes by name."""

from __future__ import annotations

from collections.abc import Sequence

from djinn_fx.errors import SettingsError
from djinn_fx.passes.annotate_phase import AnnotatePhase
from djinn_fx.passes.base import Pass, from_text
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.find_state import FindState
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.passes.memory.order_ops import OrderOps
from djinn_fx.passes.order import Order
from djinn_fx.passes.place import Place
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import EngineTime, Plan, Region, together

DEFAULT: tuple[Pass, ...] = (
    AnnotatePhase(),
    FindState(),
    EstimateCost(),
    OrderOps(),
    Lifetimes(),
    FindRegions(),
    Colocate(),
    Place(),
    Order(),
    PlanTransfers(),
    PlanMemory(),
)

TABLE: dict[str, type[Pass]] = {one.name: type(one) for one in DEFAULT}


def parse_passes(passes: Sequence[object]) -> tuple[Pass, ...]:
    """A user's list of passes: texts such as ``"find-regions{min-ops=4}"`` or pass objects.

    Raises:
        SettingsError: a text that names no pass, or an object that is none.
    """
    parsed: list[Pass] = []
    for one in passes:
        if isinstance(one, str):
            parsed.append(from_text(one, TABLE))
        elif isinstance(one, Pass):
            parsed.append(one)
        else:
            raise SettingsError(f"option 'passes': {one!r} is neither a pass nor the text of one")
    return tuple(parsed)


def at_place(passes: Sequence[Pass]) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """The passes before place, and from place on: on a planned graph the latter can run again, for other devices."""
    first = next((number for number, one in enumerate(passes) if one.name == Place.name), len(passes))
    return tuple(passes[:first]), tuple(passes[first:])


def _whole_times(regions: Sequence[Region]) -> tuple[EngineTime, ...]:
    """What each engine would take for all regions one after the other, the fastest first."""
    found = []
    for engine in dict.fromkeys(one.engine for region in regions for one in region.times):
        parts = [time for region in regions if (time := region.time_on(engine)) is not None]
        if len(parts) == len(regions):
            found.append(together(engine, parts))
    return tuple(sorted(found, key=lambda one: one.time_s))


def plan_of(srg: SRG) -> Plan:
    """What the passes decided, as plain data."""
    costs = [region.cost for region in srg.regions]
    return Plan(
        regions=srg.regions,
        order=srg.order,
        transfers=srg.transfers,
        peak_bytes=srg.peak_bytes,
        memory=srg.memory,
        placement=srg.placement,
        phase=srg.phase,
        **({"cost": sum(costs[1:], costs[0])} if costs else {}),
        times=_whole_times(srg.regions),
        reasons=srg.reasons,
    )
