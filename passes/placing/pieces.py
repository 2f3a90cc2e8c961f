"""From units and their devices to regions: one for each device's part of a region, or one for each device's stretch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch.fx import Node

from djinn_fx.passes.base import PassContext
from djinn_fx.passes.find_regions import priced_regions, region_of
from djinn_fx.passes.placing.request import Placing
from djinn_fx.passes.placing.units import Unit
from djinn_fx.srg.extract import boundary, mentions, size_ops, symbol_sources, unbound_symbols, with_sizes
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region
from djinn_fx.srg.record import RESIDENT

#: A unit and its device.
Placed = tuple[Unit, str]


class Pieces:
    """Makes regions of parts of a graph.

    Args:
        srg: the graph.
    """

    def __init__(self, srg: SRG) -> None:
        self._srg = srg
        self._symbols, self._sizes = srg.fact(symbol_sources), srg.fact(size_ops)
        self._mentioned = srg.fact(mentions)

    def made(self, nodes: Sequence[Node], label: str) -> Region | None:
        """Ops as a region; None if it could not stand alone."""
        inner = with_sizes(nodes, self._sizes, self._srg.output)
        inputs, outputs = boundary(self._srg, inner, self._symbols, self._sizes, self._mentioned)
        if unbound_symbols(self._srg, inner, inputs, self._mentioned):
            return None
        return region_of(self._srg, 0, label, inner, inputs, outputs)

    def regions(self, placed: Sequence[Placed], *, whole: bool) -> list[Region]:
        """The regions, in the order of the units.

        Args:
            placed: the units with their devices, those of a region together.
            whole: neighbours on one device become one region.
        """
        parts = [part for _, of_region in _by_region(placed) for part in self._parts(list(of_region))]
        if not whole:
            return [region for region, _ in parts]
        made: list[Region] = []
        for device, run in itertools.groupby(parts, key=lambda part: part[0].device):
            stretch = list(run)
            label = stretch[0][0].label if len(stretch) == 1 else f"{stretch[0][0].label} … {stretch[-1][0].label}"
            one = self.made([node for _, nodes in stretch for node in nodes], label) if len(stretch) > 1 else None
            made += [replace(one, device=device)] if one is not None else [region for region, _ in stretch]
        return made

    def _parts(self, placed: Sequence[Placed]) -> list[tuple[Region, list[Node]]]:
        """A region's parts with their ops; the region itself where it is on one device."""
        region = placed[0][0].region
        everything = [self._srg.node(name) for name in region.nodes]
        mine = [node for unit, _ in placed for node in unit.nodes]
        same = set(mine) == set(everything) - self._sizes
        if len({device for _, device in placed}) == 1 and same:
            return [(replace(region, device=placed[0][1]), everything)]
        if not same:
            everything = mine + [node for node in everything if node in self._sizes]
        runs = [(device, list(run)) for device, run in itertools.groupby(placed, key=lambda one: one[1])]
        told = [node for node in everything if node in self._sizes and self._srg.output in node.users]
        parts = []
        for place, (device, run) in enumerate(runs):
            nodes = [node for unit, _ in run for node in unit.nodes] + (told if place == len(runs) - 1 else [])
            if not nodes:
                continue
            made = self.made(nodes, region.label + (f", part {place + 1} of {len(runs)}" if len(runs) > 1 else ""))
            if made is None:  # it cannot be cut there: all of it goes home, or where most of it is
                whole = region if same else self.made(everything, region.label)
                assert whole is not None, "a region and views of weights stand alone as the region does"
                return [(replace(whole, device=self._srg.home or _heaviest(placed)), everything)]
            parts.append((replace(made, device=device), nodes))
        return parts


def views_with_readers(srg: SRG, placed: Sequence[Placed]) -> list[Placed]:
    """The units with views of weights where they are read, if that is on other devices alone.

    A tracer puts a weight's transpose anywhere. Made on another device it would be handed over in each call, and the
    engine there would not know that it is a weight.
    """
    home = {node: place for place, (unit, _) in enumerate(placed) for node in unit.nodes}
    moved: dict[int, list[Node]] = {}
    for node in reversed([node for node in srg.ops if node in home and _views_weights(srg, node)]):
        readers = [home[user] for user in node.users if user in home]
        if readers and all(placed[reader][1] != placed[home[node]][1] for reader in readers):
            home[node] = min(readers)
            moved.setdefault(home[node], []).insert(0, node)
    gone = {node for nodes in moved.values() for node in nodes}
    return [
        (replace(unit, nodes=(*moved.get(place, ()), *(node for node in unit.nodes if node not in gone))), device)
        for place, (unit, device) in enumerate(placed)
    ]


def _views_weights(srg: SRG, node: Node) -> bool:
    """Whether a value is a view of what stays in memory."""
    while srg.record(node).is_view and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return not node.op.startswith("call_") and (node.op == "get_attr" or srg.record(node).residency in RESIDENT)


def _by_region(placed: Sequence[Placed]) -> Iterator[tuple[int, Iterator[Placed]]]:
    return itertools.groupby(placed, key=lambda one: one[0].region.index)


def _heaviest(placed: Sequence[Placed]) -> str:
    spent: dict[str, float] = {}
    for unit, device in placed:
        spent[device] = spent.get(device, 0.0) + unit.seconds
    return max(spent, key=lambda device: spent[device])


def settle(srg: SRG, placed: Sequence[Placed], placing: Placing, context: PassContext) -> None:
    """Set the graph's regions, and the device of every record and region."""
    srg.home = placing.home if placing.apart else None
    made = Pieces(srg).regions(views_with_readers(srg, placed), whole=placing.whole)
    regions = tuple(replace(region, index=index) for index, region in enumerate(made))
    known = {region.nodes for region in srg.regions}
    if placing.pricings:
        regions = _priced_there(srg, regions, placing)
    elif context.pricing is not None and not all(region.nodes in known for region in regions):
        regions = priced_regions(srg, regions, context.pricing)
    srg.regions = regions
    sizes = srg.fact(size_ops)
    first = regions[0].device if regions else context.device
    reached = set[Node]()
    for region in reversed(regions):
        for node in map(srg.node, region.nodes):
            reached.add(node)
            index, record = None if node in sizes else region.index, srg.record(node)
            if record.device != region.device or record.region != index:
                srg.update(node, device=region.device, region=index)
    for node in srg.nodes:
        if node in reached:
            continue
        device: str | None = srg.home or first  # where there is a home, what comes in and goes out is there
        if srg.home is None and node.op == "output":
            device = regions[-1].device if regions else first
        elif srg.home is None and not node.op.startswith("call_"):
            near = (srg.record(user).device for user in node.users if user.op.startswith("call_"))
            device = next((device for device in near if device is not None), first)
        if srg.record(node).device != device:
            srg.update(node, device=device)


def _priced_there(srg: SRG, regions: Sequence[Region], placing: Placing) -> tuple[Region, ...]:
    """The regions as priced for the devices they are on; those on devices of one sort together."""
    by_row = {placing.pricings[region.device].device.name: placing.pricings[region.device] for region in regions}
    made: dict[int, Region] = {}
    for row, pricing in by_row.items():
        mine = [region for region in regions if placing.pricings[region.device].device.name == row]
        made.update((region.index, region) for region in priced_regions(srg, mine, pricing))
    return tuple(made[region.index] for region in regions)
