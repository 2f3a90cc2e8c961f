"""A graph's regions as units of work in a row, and what a solver needs to know of them.

A region that repeats is one unit, so that one artefact still serves all its repeats; any other may be cut anywhere.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from djinn_fx.costmodels.graph_work import part_of, priced
from djinn_fx.passes.cutting.partition import op_list
from djinn_fx.passes.order import dependencies, in_turn
from djinn_fx.passes.placing.chain import Held, Row
from djinn_fx.passes.placing.request import Placing, PricedDevice
from djinn_fx.settings.devices import LocalDevice
from djinn_fx.srg.effects import storages_of
from djinn_fx.srg.extract import size_ops
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region
from djinn_fx.srg.record import RESIDENT, Residency

#: Units that a row has at most; ops of little work share one.
MOST_UNITS = 192
#: State below so many bytes (a counter) ties nothing: handing it over costs nothing.
SMALL_STATE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Ops that are placed together.

    Attributes:
        nodes: the ops, in an order in which they can run; none of those that only reckon with sizes.
        region: that they are of.
        seconds: they are expected to take, as the graph was priced.
        fixed: the device they must be on, by a pin; None for any.
    """

    nodes: tuple[Node, ...]
    region: Region
    seconds: float
    fixed: str | None = None


def units_of(srg: SRG, wanted: Mapping[Node, str], *, finest: bool = False) -> list[Unit]:
    """The units of a graph, in an order in which they can run.

    Args:
        srg: the graph, with its regions.
        wanted: the device of each op that is pinned.
        finest: regions that repeat may be cut too.
    """
    sizes = srg.fact(size_ops)
    repeats = Counter(region.structural_hash for region in srg.regions)
    regions = [srg.regions[index] for index in in_turn(dependencies(srg))]
    total = sum(_seconds(srg, [srg.node(name) for name in region.nodes]) for region in regions)
    ties = _ties(srg)
    units: list[Unit] = []
    for region in regions:
        nodes = [node for node in map(srg.node, region.nodes) if node not in sizes]
        devices = {wanted[node] for node in nodes if node in wanted}
        one = bool(region.structural_hash) and repeats[region.structural_hash] > 1 and not finest
        if not nodes or (one and len(devices) <= 1):
            seconds = region.cost.time_s
            units.append(Unit(nodes=tuple(nodes), region=region, seconds=seconds, fixed=next(iter(devices), None)))
        else:
            units += _cut(srg, region, _writes_early(nodes, ties), wanted, total / MOST_UNITS)
    return units


def _ties(srg: SRG) -> dict[Node, tuple[Node, ...]]:
    """For each op that writes, the ops that must have run before it."""
    ops = srg.fact(op_list)
    return {
        node: tuple(ops.nodes[tie] for tie in before)
        for node, before, writes in zip(ops.nodes, ops.before, ops.writes, strict=True)
        if writes
    }


def _writes_early(nodes: Sequence[Node], ties: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """The ops with each write right after what it waits for: AOTAutograd puts all at the end, far from their layers."""
    when: dict[Node, int] = {}
    for place, node in enumerate(nodes):
        when[node] = max((when[tie] for tie in ties[node] if tie in when), default=0) if node in ties else place
    return sorted(nodes, key=lambda node: (when[node], node in ties))


def _cut(srg: SRG, region: Region, nodes: Sequence[Node], wanted: Mapping[Node, str], enough: float) -> list[Unit]:
    """A region's ops in units of about so many seconds each, all of one pin."""
    scale = region.cost.time_s / (_seconds(srg, nodes) or 1.0)
    units: list[Unit] = []
    for atom in _atoms(nodes):
        fixed = next((wanted[node] for node in atom if node in wanted), None)
        seconds = _seconds(srg, atom) * scale
        if units and units[-1].fixed == fixed and (units[-1].seconds < enough * scale or not seconds):
            units[-1] = replace(units[-1], nodes=(*units[-1].nodes, *atom), seconds=units[-1].seconds + seconds)
        else:
            units.append(Unit(nodes=tuple(atom), region=region, seconds=seconds, fixed=fixed))
    return units


def _atoms(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Runs of ops that stay together: what gives several values and what picks one of them."""
    inside = {node: place for place, node in enumerate(nodes)}
    reach = 0
    atom: list[Node] = []
    for place, node in enumerate(nodes):
        atom.append(node)
        picks = [inside[user] for user in node.users if user in inside and "getitem" in str(user.target)]
        reach = max(reach, place, *picks)
        if reach == place:
            yield atom
            atom = []
    if atom:
        yield atom


def _seconds(srg: SRG, nodes: Sequence[Node]) -> float:
    return sum((cost.time_s for node in nodes if (cost := srg.record(node).cost) is not None), 0.0)


def row_of(srg: SRG, units: Sequence[Unit], placing: Placing) -> Row:
    """The problem of sharing the units out."""
    unit_of = {node: place for place, unit in enumerate(units) for node in unit.nodes}
    spans = list(_passing(srg, units, unit_of))
    crossing = [0] * len(units)
    for nbytes, made, last in spans:
        for place in range(made + 1, last + 1):
            crossing[place] += nbytes
    return Row(
        held=tuple(_held(srg, unit_of)),
        live=tuple(_live(srg, units)),
        crossing=tuple(crossing),
        together=tuple(_together(srg, units, unit_of)),
        **_on_devices(srg, units, placing),
    )


def on_devices(srg: SRG, row: Row, units: Sequence[Unit], placing: Placing) -> Row:
    """The problem of sharing the same units out over other devices."""
    return replace(row, **_on_devices(srg, units, placing))


def _on_devices(srg: SRG, units: Sequence[Unit], placing: Placing) -> dict[str, Any]:
    """What of the problem depends on the devices."""
    names = placing.names

    @functools.cache  # layers repeat: the same few sizes
    def moving_s(source: int, target: int, nbytes: int) -> float:
        return placing.moving_s(names[source], names[target], nbytes)

    return {
        "seconds": _times(srg, units, placing),
        "rooms": tuple(float("inf") if one.memory_bytes is None else one.memory_bytes for one in placing.devices),
        "moving_s": moving_s,
        "fixed": tuple(names.index(unit.fixed) if unit.fixed is not None else None for unit in units),
        "throughput": placing.objective == "throughput",
    }


def _times(srg: SRG, units: Sequence[Unit], placing: Placing) -> tuple[tuple[float, ...], ...]:
    """Seconds of each unit on each device: the graph's own times by processors, or its region's as priced for there."""
    known: dict[tuple[object, str], float] = {}

    def factor(region: Region, device: LocalDevice | PricedDevice) -> float:
        if isinstance(device, LocalDevice):
            return placing.threads / len(device.cores)
        key = (region.structural_hash or region.index, device.pricing.device.name)
        if key not in known:
            pricing = device.pricing
            there = priced(region, part_of(srg, region.nodes), pricing, pricing.engines[:1]).cost.time_s
            known[key] = there / region.cost.time_s if region.cost.time_s > 0 else 1.0
        return known[key]

    return tuple(tuple(unit.seconds * factor(unit.region, device) for device in placing.devices) for unit in units)


def _passing(srg: SRG, units: Sequence[Unit], unit_of: Mapping[Node, int]) -> Iterator[tuple[int, int, int]]:
    """Of each storage that ops make: bytes, the unit that makes it, the last unit that reads it."""
    storages = srg.fact(storages_of)
    made: dict[int, tuple[int, int, int]] = {}
    for place, unit in enumerate(units):
        for node in unit.nodes:
            last = max([place, *(unit_of[user] for user in node.users if user in unit_of)])
            for storage, meta in zip(storages[node], srg.record(node).outputs, strict=True):
                nbytes, first, before = made.get(storage, (0, place, 0))
                made[storage] = (max(nbytes, meta.nbytes), first, max(before, last))
    given = {storage for node in (*srg.inputs, *srg.gm.graph.find_nodes(op="get_attr")) for storage in storages[node]}
    yield from (span for storage, span in made.items() if storage not in given)


def _held(srg: SRG, unit_of: Mapping[Node, int]) -> Iterator[Held]:
    """What stays in memory, with the units that use it."""
    for node in (*srg.inputs, *srg.gm.graph.find_nodes(op="get_attr")):
        record = srg.record(node)
        users = sorted({unit_of[user] for user in node.users if user in unit_of})
        if users and record.nbytes and (node.op == "get_attr" or record.residency in RESIDENT):
            yield Held(nbytes=record.nbytes, users=tuple(users))


def _live(srg: SRG, units: Sequence[Unit]) -> list[int]:
    """Most bytes of passing values in memory at once during each unit, as ops run one by one."""
    ops = [node for unit in units for node in unit.nodes]
    position = {node: place for place, node in enumerate(ops)}
    change = [0] * (len(ops) + 1)
    for node, place in position.items():
        record = srg.record(node)
        if record.is_view:
            continue
        kept = srg.output in node.users
        end = len(ops) if kept else max([place, *(position[user] for user in node.users if user in position)]) + 1
        change[place] += record.nbytes
        change[end] -= record.nbytes
    found, now, place = [], 0, 0
    for unit in units:
        most = 0
        for _ in unit.nodes:
            now += change[place]
            most, place = max(most, now), place + 1
        found.append(most)
    return found


def _together(srg: SRG, units: Sequence[Unit], unit_of: Mapping[Node, int]) -> Iterator[tuple[int, int]]:
    """First and last of the units that share state, unless pins part them."""
    tied = [
        sorted({unit_of[user] for user in node.users if user in unit_of})
        for node in srg.inputs
        if srg.record(node).residency is Residency.STATE and srg.record(node).nbytes >= SMALL_STATE_BYTES
    ]
    for users in tied:
        if len(users) > 1 and len({units[place].fixed for place in users} - {None}) <= 1:
            yield users[0], users[-1]
