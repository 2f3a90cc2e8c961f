"""Where the boxes and lines of the graph by region lie, in pixels.

Regions that repeat one behind the other are one box. Boxes stand in rows, each below all that it reads from; in a row
they are sorted by where what they read stands, which keeps lines from crossing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from djinn_fx.explain.detail.flow import Edge
from djinn_fx.explain.report import RegionInfo
from djinn_fx.units import format_bytes, format_seconds

#: Pixels.
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 216, 50, 40, 40, 16
#: Boxes at most; a larger graph is for --dot.
MOST = 200
#: Regions of one repeat at most.
_PERIOD = 8
_CHARACTERS = 30


@dataclass(frozen=True, kw_only=True)
class Box:
    """One region, or several that repeat."""

    x: int
    y: int
    label: str
    note: str
    about: str
    colour: int
    regions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What flows from one box to another. ``crosses``: whether to another device."""

    path: str
    about: str
    crosses: bool


@dataclass(frozen=True, kw_only=True)
class FlowChart:
    """All of it; ``left_out``: boxes that are not drawn."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: int
    height: int
    left_out: int = 0


def flow_chart(
    regions: Sequence[RegionInfo], order: Sequence[int], edges: Sequence[Edge], colours: dict[str, int]
) -> FlowChart:
    """The chart of one graph.

    Args:
        regions: of the graph.
        order: their indices in the order in which they run.
        edges: what flows between them.
        colours: of the devices.
    """
    groups = folded([regions[index] for index in order])
    left_out = max(0, len(groups) - MOST)
    groups = groups[:MOST]
    home = {region.index: place for place, group in enumerate(groups) for region in group}
    links: dict[tuple[int, int], tuple[int, int]] = {}
    for edge in edges:
        source, target = home.get(edge.source), home.get(edge.target)
        if source is not None and target is not None and source != target:
            values, nbytes = links.get((source, target), (0, 0))
            links[source, target] = (values + edge.values, nbytes + edge.nbytes)
    places = _places(len(groups), list(links))
    boxes = tuple(_box(group, places[place], colours) for place, group in enumerate(groups))
    lines = tuple(_line(boxes, groups, pair, *what) for pair, what in links.items())
    bulge = max((round(_bulge(boxes[a], boxes[b])) for a, b in links), default=0)
    return FlowChart(
        boxes=boxes,
        lines=lines,
        width=max((box.x for box in boxes), default=0) + WIDTH + MARGIN + bulge,
        height=max((box.y for box in boxes), default=0) + HEIGHT + MARGIN,
        left_out=left_out,
    )


def folded(regions: Sequence[RegionInfo]) -> list[list[RegionInfo]]:
    """Regions one by one; a sequence of the same artefacts on the same device that comes twice or more as one group."""
    keys = [(region.structural_hash or f"#{region.index}", region.device) for region in regions]
    groups: list[list[RegionInfo]] = []
    place = 0
    while place < len(keys):
        covered = max((_run(keys, place, period) for period in range(1, _PERIOD + 1)), default=0)
        length = covered or 1
        groups.append(list(regions[place : place + length]))
        place += length
    return groups


def _run(keys: Sequence[object], start: int, period: int) -> int:
    """How many regions the repeats of a period from here cover; 0 if it does not repeat."""
    count, unit = 1, keys[start : start + period]
    while len(unit) == period and keys[start + count * period : start + (count + 1) * period] == unit:
        count += 1
    return count * period if count > 1 else 0


def _places(count: int, links: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Row and column of each box."""
    sources: list[list[int]] = [[] for _ in range(count)]
    for source, target in links:
        sources[target].append(source)
    rows: list[int] = []
    for place in range(count):  # what a box reads stands before it
        rows.append(1 + max((rows[one] for one in sources[place] if one < place), default=-1))
    columns: list[float] = [0.0] * count
    for row in range(max(rows, default=-1) + 1):
        members = [place for place in range(count) if rows[place] == row]
        wanted = {
            place: sum(columns[one] for one in sources[place]) / len(sources[place]) if sources[place] else 0.0
            for place in members
        }
        for column, place in enumerate(sorted(members, key=lambda place: (wanted[place], place))):
            columns[place] = float(column)
    return [(row, int(column)) for row, column in zip(rows, columns, strict=True)]


def _box(group: Sequence[RegionInfo], place: tuple[int, int], colours: dict[str, int]) -> Box:
    row, column = place
    first, last = group[0], group[-1]
    distinct = len({region.structural_hash or region.index for region in group})
    times = len(group) // distinct
    label = first.label if len(group) == 1 else f"{first.label} … {_tail(first.label, last.label)}"
    seconds = sum(region.cost.time_s for region in group)
    known = all(region.cost.provenance != "unpriced" for region in group)
    note = " · ".join(
        part
        for part in (
            f"×{times}" if times > 1 else "",
            f"{sum(region.ops for region in group):,} ops",
            format_seconds(seconds) if known else "time unknown",
        )
        if part
    )
    return Box(
        x=MARGIN + column * (WIDTH + ACROSS),
        y=MARGIN + row * (HEIGHT + DOWN),
        label=label if len(label) <= _CHARACTERS else f"{label[: _CHARACTERS - 1]}…",
        note=note,
        about=f"{label}, {note}, on {first.device}",
        colour=colours.get(first.device, 0),
        regions=tuple(region.index for region in group),
    )


def _tail(first: str, last: str) -> str:
    """The last label's end, without what both begin with."""
    owner = first.rpartition(".")[0]
    return last.removeprefix(f"{owner}.") if owner else last


def _line(
    boxes: Sequence[Box], groups: Sequence[Sequence[RegionInfo]], pair: tuple[int, int], values: int, nbytes: int
) -> Line:
    source, target = boxes[pair[0]], boxes[pair[1]]
    many = "1 value" if values == 1 else f"{values:,} values"
    return Line(
        path=_curve(source, target),
        about=f"{source.label} → {target.label}: {many}, {format_bytes(nbytes)}",
        crosses=groups[pair[0]][-1].device != groups[pair[1]][0].device,
    )


def _bulge(source: Box, target: Box) -> float:
    """How far to the right a line goes that passes boxes between its ends, in their column."""
    rows = (target.y - source.y) // (HEIGHT + DOWN)
    return 0.0 if rows <= 1 else min(18 + 10 * (rows - 1), 90)


def _curve(source: Box, target: Box) -> str:
    bulge = _bulge(source, target)
    if bulge and source.x == target.x:
        right, start, end = source.x + WIDTH, source.y + HEIGHT / 2, target.y + HEIGHT / 2
        return f"M{right} {start:g}C{right + bulge * 1.3:g} {start:g} {right + bulge * 1.3:g} {end:g} {right} {end:g}"
    x1, y1, x2, y2 = source.x + WIDTH / 2, source.y + HEIGHT, target.x + WIDTH / 2, target.y
    middle = (y1 + y2) / 2
    return f"M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"
