"""Who gets which unit: one device where more are not worth it, else the best of the ways to share them out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from torch.fx import Node

from djinn_fx.errors import InfeasibleError
from djinn_fx.passes.base import PassContext
from djinn_fx.passes.placing.chain import Row, Shares, Solver, along, shares_of, smallest_room
from djinn_fx.passes.placing.measured import corrected, measured_loads
from djinn_fx.passes.placing.pieces import Placed, settle
from djinn_fx.passes.placing.request import Placing
from djinn_fx.passes.placing.solved import shared_out
from djinn_fx.passes.placing.told import loads, memory_taken, placement_of
from djinn_fx.passes.placing.units import Unit, on_devices, row_of, units_of
from djinn_fx.passes.placing.wanted import at_home, followed, pinned, tied_to_home
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Placement, Region
from djinn_fx.srg.record import GraphKind
from djinn_fx.units import format_bytes, format_seconds

#: Several devices must be better than one by this factor: what they save is an estimate, what they cost is certain.
WORTH = 0.95
#: A repeated layer is cut where the slowest device is above an even share by this factor.
UNEVEN = 1.05
#: What workers hold is shared out evenly where a call takes longer by no more than this factor.
EVEN = 1.02
#: How much more than the least that would do each may hold then.
_SLACK = 1.1
#: With more devices than this, only the ones with most processors are tried together.
_MANY = 4


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was chosen, and what would have been the next best."""

    chosen: Shares
    runner_up: Shares | None


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """A graph's units, the problem they make, its answer, and what is to be said first of it."""

    units: Sequence[Unit]
    row: Row
    decision: Decision
    why: str

    def placed(self, placing: Placing) -> list[Placed]:
        """The units with their devices."""
        devices = self.decision.chosen.devices
        return [(unit, placing.names[device]) for unit, device in zip(self.units, devices, strict=True)]

    def placement(self, srg: SRG, placing: Placing) -> Placement:
        """As data."""
        return placement_of(srg, self.units, self.row, self.decision.chosen, self.decision.runner_up, placing)


def spread(srg: SRG, placing: Placing, context: PassContext, solver: Solver = shared_out) -> tuple[Reason, ...]:
    """Place every op and region of a graph on one of the devices, whatever it was placed on before.

    Raises:
        SettingsError: two pins contradict each other.
        InfeasibleError: the devices cannot hold the graph.
    """
    _begin(srg)
    if srg.kind is GraphKind.BACKWARD and placing.followed:
        return _follow(srg, placing, context)
    decided = _decided(srg, placing, solver)
    settle(srg, decided.placed(placing), placing, context)
    better = _cut_anew(srg, decided, placing, context, solver) if placing.objective == "throughput" else None
    decided = _as_measured(srg, better or decided, placing)
    if placing.apart and any(srg.record(node).device != placing.home for node in tied_to_home(srg)):
        decided = _all_at_home(decided, placing)
        _begin(srg)
        settle(srg, decided.placed(placing), placing, context)
    srg.placement = decided.placement(srg, placing)
    return (_told(decided, placing),)


def _all_at_home(decided: _Decided, placing: Placing) -> _Decided:
    """Where regions cannot be cut so that what must stay does."""
    at = placing.names.index(placing.home)
    chosen = shares_of(decided.row, (at,) * len(decided.units))
    why = f"{decided.why}what must stay on {placing.home} cannot be cut from the rest; "
    return replace(decided, decision=Decision(chosen=chosen, runner_up=None), why=why)


def _as_measured(srg: SRG, decided: _Decided, placing: Placing) -> _Decided:
    """The same with the seconds that the parts took when they were measured, if all of them were."""
    # Devices that are priced by rows have been measured where they are workers of this machine.
    measured = measured_loads(srg, placing) if placing.abroad or not placing.pricings else None
    if not measured:
        return decided
    row = corrected(decided.row, decided.decision.chosen, measured)
    chosen = shares_of(row, decided.decision.chosen.devices)
    return replace(decided, row=row, decision=replace(decided.decision, chosen=chosen))


def _cut_anew(srg: SRG, decided: _Decided, placing: Placing, context: PassContext, solver: Solver) -> _Decided | None:
    """Another answer, by what the parts took when they were measured; None where the first one is to stay.

    The graph is left as the answer has it. One that was measured itself must be the better one by that.
    """
    measured = None if placing.pricings else measured_loads(srg, placing)
    if measured is None or len(measured) < 2:
        return None
    row = corrected(decided.row, decided.decision.chosen, measured)
    decision = decide(row, placing, solver)
    before = max(measured.values())
    if decision is None or len(decision.chosen.used) < 2 or decision.chosen.figure_s >= before * WORTH:
        return None
    other = replace(decided, row=row, decision=decision, why=decided.why + "cut anew by measured times; ")
    _begin(srg)
    settle(srg, other.placed(placing), placing, context)
    now = measured_loads(srg, placing)
    if now is None or max(now.values()) < before:
        return other
    _begin(srg)
    settle(srg, decided.placed(placing), placing, context)
    return None


def foresee(srg: SRG, placing: Placing) -> tuple[Reason, ...]:
    """What the devices of a topology that is not here would have of a graph that runs here as it is.

    Raises:
        DjinnError: as :func:`spread`.
    """
    decided = _decided(srg, placing, shared_out)
    srg.placement = decided.placement(srg, placing)
    told = _told(decided, placing)
    there = f"{placing.topology.name}, which is not here: nothing runs there"
    return (replace(told, detail=f"{told.detail} ({there})"),)


def _decided(srg: SRG, placing: Placing, solver: Solver) -> _Decided:
    """The graph's units with their devices, and why."""
    pins = pinned(srg, placing)
    tied = dict.fromkeys(tied_to_home(srg), placing.home) if placing.apart else {}
    void = sum(1 for node, device in pins.items() if node in tied and device != placing.home)
    pins = {**pins, **tied}
    home = {node: device for node, device in at_home(srg, placing).items() if node not in pins}
    why = f"{len(pins) - len(tied)} ops are pinned; " if len(pins) > len(tied) else ""
    if tied:
        but = f", {void} of them against pins" if void else ""
        why += (
            f"{len(tied)} ops stay on {placing.home}{but}: they write, read what is written, draw numbers or are odd; "
        )
    try:
        units, row, decision = _shared_out(srg, {**home, **pins}, placing, solver)
        why += f"{len(home)} ops go where another graph keeps their weights and state; " if home else ""
    except InfeasibleError:
        if not home:
            raise
        units, row, decision = _shared_out(srg, pins, placing, solver)
        why += "there is no room where another graph keeps the weights and state; "
    return _Decided(units=units, row=row, decision=decision, why=why)


def _shared_out(
    srg: SRG, wanted: Mapping[Node, str], placing: Placing, solver: Solver
) -> tuple[list[Unit], Row, Decision]:
    """The units, the problem they make and its answer: finer units where balance or memory asks for them."""
    units, row = _problem(srg, wanted, placing)
    decision = decide(row, placing, solver)
    if decision is None or (row.throughput and len(decision.chosen.used) > 1 and _uneven(row, decision.chosen)):
        finer, other = _problem(srg, wanted, placing, finest=True)
        found = decide(other, placing, solver)
        if found is None and decision is None:
            raise InfeasibleError(_too_large(other, placing))
        if decision is None or (found is not None and found.chosen.figure_s < decision.chosen.figure_s * WORTH):
            units, row, decision = finer, other, found
    assert decision is not None, "one of the two is there"
    return units, row, decision


def _begin(srg: SRG) -> None:
    """Take back what an earlier placement made of the regions, and what it told."""
    if srg.uncut is None:
        srg.uncut = srg.regions, srg.reasons
        return
    srg.regions, srg.reasons = srg.uncut
    for region in srg.regions:
        for node in map(srg.node, region.nodes):
            if srg.record(node).region not in (None, region.index):
                srg.update(node, region=region.index)


@dataclass(frozen=True)
class _Known:
    """A graph's problem as it was the last time, and of which regions and pins."""

    regions: tuple[Region, ...]
    wanted: Mapping[Node, str]
    units: list[Unit]
    row: Row


#: Of graphs that were placed, coarse and fine: what is placed anew has other devices and the same units.
_KNOWN: WeakKeyDictionary[SRG, dict[bool, _Known]] = WeakKeyDictionary()


def _problem(srg: SRG, wanted: Mapping[Node, str], placing: Placing, *, finest: bool = False) -> tuple[list[Unit], Row]:
    known = _KNOWN.setdefault(srg, {}).get(finest)
    if known is not None and known.regions is srg.regions and known.wanted == wanted:
        return known.units, on_devices(srg, known.row, known.units, placing)
    units = units_of(srg, wanted, finest=finest)
    row = row_of(srg, units, placing)
    _KNOWN[srg][finest] = _Known(srg.regions, wanted, units, row)
    return units, row


def _follow(srg: SRG, placing: Placing, context: PassContext) -> tuple[Reason, ...]:
    """A backward graph: each op where its forward op is."""
    wanted = followed(srg, placing.followed, placing.names[0])
    units = units_of(srg, wanted)
    placed = [(unit, unit.fixed or placing.names[0]) for unit in units]
    row = row_of(srg, units, placing)
    devices = tuple(placing.names.index(device) for _, device in placed)
    srg.placement = placement_of(srg, units, row, shares_of(row, devices), None, placing)
    settle(srg, placed, placing, context)
    detail = f"backward follows forward: {', '.join(sorted({device for _, device in placed}))}"
    return (Reason(kind=ReasonKind.PLACED, detail=detail),)


def decide(row: Row, placing: Placing, solver: Solver = shared_out) -> Decision | None:
    """One device or several; None if they cannot hold these units."""
    places = range(len(placing.devices))
    if not row.seconds:
        return Decision(chosen=Shares(devices=(), figure_s=0.0), runner_up=None)
    alone = _best([solver(row, [place]) for place in places])
    found = [solver(row, group) for group in _groups(placing)]
    several = _best([one for one in found if one is not None and len(one.used) > 1])
    if several is None and alone is None:
        way = along(row)
        return Decision(chosen=way, runner_up=None) if way is not None and _fits(row, way) else None
    if alone is None or (several is not None and several.figure_s < alone.figure_s * WORTH):
        assert several is not None, "one of the two is there"
        return Decision(chosen=_evened(row, several, solver) if placing.abroad else several, runner_up=alone)
    return Decision(chosen=alone, runner_up=several)


def _groups(placing: Placing) -> list[tuple[int, ...]]:
    """Sets of two or more devices that are tried together."""
    places = sorted(range(len(placing.devices)), key=lambda place: (-placing.strength(place), place))
    if len(places) > _MANY:
        return [tuple(places[:count]) for count in range(2, len(places) + 1)]
    return [group for count in range(2, len(places) + 1) for group in itertools.combinations(places, count)]


def _best(found: Sequence[Shares | None]) -> Shares | None:
    return min((one for one in found if one is not None), key=lambda one: one.figure_s, default=None)


def _evened(row: Row, shares: Shares, solver: Solver) -> Shares:
    """The same devices, none fuller than it need be, if that costs next to nothing.

    Else the first one is as good as full, and the process there takes more than is counted.
    """
    least = smallest_room(row, len(shares.used))
    rooms = tuple(min(room, _SLACK * least) for room in row.rooms)
    found = solver(replace(row, rooms=rooms), shares.used) if math.isfinite(max(row.rooms)) else None
    return found if found is not None and found.figure_s <= EVEN * shares.figure_s else shares


def _uneven(row: Row, shares: Shares) -> bool:
    spent = loads(row, shares)
    return max(spent.values()) > UNEVEN * sum(spent.values()) / len(spent)


def _fits(row: Row, shares: Shares) -> bool:
    """Whether what each device holds fits, wherever its units lie."""
    return all(nbytes <= row.rooms[device] for device, nbytes in memory_taken(row, shares).items())


def _too_large(row: Row, placing: Placing) -> str:
    count = min(len(placing.devices), len(row.seconds))
    least = smallest_room(row, count)
    given = ", ".join(
        f"{one.name} {format_bytes(one.memory_bytes) if one.memory_bytes is not None else 'without limit'}"
        for one in placing.devices
    )
    pins = " as the pins have it" if any(one is not None for one in row.fixed) else ""
    where = f"topology {placing.topology.name}" if placing.elsewhere else "devices"
    return (
        f"{where}: their memory cannot hold the graph{pins}: it takes {format_bytes(int(smallest_room(row, 1)))} on "
        f"one device, and {format_bytes(int(least))} on each of {count} is the least that would do; given are {given}"
    )


def _told(decided: _Decided, placing: Placing) -> Reason:
    """What was decided, and what the next best would have cost."""
    decision, row, why = decided.decision, decided.row, decided.why
    names, aim = placing.names, "a call in a row" if row.throughput else "one call"
    chosen, other = decision.chosen, decision.runner_up
    parts = ", ".join(f"{names[one]} {format_seconds(spent)}" for one, spent in loads(row, chosen).items())
    if len(chosen.used) > 1:
        detail = f"{why}spread over {len(chosen.used)} devices ({parts}): {format_seconds(chosen.figure_s)} for {aim}"
    else:
        where = names[chosen.used[0]] if chosen.used else names[0]
        detail = f"{why}everything runs on {where}: more devices are not worth it for {aim}"
    if other is None:
        return Reason(kind=ReasonKind.PLACED, detail=detail)
    instead = ", ".join(names[one] for one in other.used)
    cost = f"{format_seconds(other.figure_s)} for {aim}, not {format_seconds(chosen.figure_s)}"
    return Reason(kind=ReasonKind.PLACED, detail=detail, runner_up=instead, runner_up_cost=cost)
