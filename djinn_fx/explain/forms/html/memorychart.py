"""Where the areas of a memory chart lie, in a square of :data:`SIDE` by :data:`SIDE` that the page stretches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.explain.detail.memory import MemoryCurve
from djinn_fx.explain.forms.html.scale import Tick, ticks
from djinn_fx.srg.memory import Holds
from djinn_fx.units import format_bytes

SIDE = 1000
#: From the ground up: what stays longest is lowest.
_ORDER = (
    Holds.WEIGHT,
    Holds.COPY,
    Holds.STATE,
    Holds.INPUT,
    Holds.SAVED,
    Holds.OUTPUT,
    Holds.ACTIVATION,
    Holds.WORKSPACE,
)
#: If weights are more than this share of the peak, the rest is drawn once more without them.
_MOSTLY = 0.6
#: Above the highest value, as a share of it.
AIR = 0.12


@dataclass(frozen=True, kw_only=True)
class Area:
    """What one sort of bytes adds: an SVG path. ``peak``: how much of it there is at the peak."""

    holds: str
    colour: int
    path: str
    peak: str


@dataclass(frozen=True, kw_only=True)
class MemoryChart:
    """One device's memory.

    Attributes:
        device: whose.
        title: what is drawn.
        areas: from the ground up.
        ticks: of bytes; of what is in per cent of the height, from the ground.
        steps: of schedule positions.
        peak_at: in per cent of the width.
        peak_high: in per cent of the height, from the ground.
        peak: its text.
        points: for the page's script: where each point is in per cent, and its text.
    """

    device: str
    title: str
    areas: tuple[Area, ...]
    ticks: tuple[Tick, ...]
    steps: tuple[Tick, ...]
    peak_at: float
    peak_high: float
    peak: str
    points: list[list[Any]]


def memory_charts(curve: MemoryCurve) -> list[MemoryChart]:
    """All that is in memory; and without the weights, where these hide the rest."""
    charts = [_chart(curve, [one for one in _ORDER if one.value in curve.holds], "all")]
    weights = curve.holds.get(Holds.WEIGHT.value)
    if weights is not None and weights[curve.peak] > _MOSTLY * curve.total(curve.peak):
        rest = [one for one in _ORDER if one.value in curve.holds and one is not Holds.WEIGHT]
        if rest:
            charts.append(_chart(curve, rest, "without weights"))
    return charts


def _chart(curve: MemoryCurve, shown: Sequence[Holds], title: str) -> MemoryChart:
    count = len(curve.steps)
    sums = [sum(curve.holds[one.value][point] for one in shown) for point in range(count)]
    peak = max(range(count), key=sums.__getitem__)
    top = sums[peak] * (1 + AIR) or 1.0
    ground = [0] * count
    areas = []
    for holds in shown:
        above = [low + more for low, more in zip(ground, curve.holds[holds.value], strict=True)]
        areas.append(
            Area(
                holds=holds.value,
                colour=_ORDER.index(holds),
                path=_path(curve, ground, above, top),
                peak=format_bytes(curve.holds[holds.value][peak]),
            )
        )
        ground = above
    text = f"{format_bytes(sums[peak])} during {curve.at[peak]}" if curve.at[peak] else format_bytes(sums[peak])
    return MemoryChart(
        device=curve.device,
        title=title,
        areas=tuple(areas),
        ticks=ticks(top, lambda value: format_bytes(round(value)), most=4),
        steps=ticks(float(curve.total_steps), lambda value: f"{value:,.0f}", most=6),
        peak_at=round(100 * (curve.steps[peak] + 0.5) / curve.total_steps, 3),
        peak_high=round(100 * sums[peak] / top, 3),
        peak=text,
        points=[
            [round(100 * (step + 0.5) / curve.total_steps, 2), _text(curve, shown, point, sums[point])]
            for point, step in enumerate(curve.steps)
        ],
    )


def _text(curve: MemoryCurve, shown: Sequence[Holds], point: int, total: int) -> str:
    parts = [
        f"{one.value} {format_bytes(curve.holds[one.value][point])}" for one in shown if curve.holds[one.value][point]
    ]
    at = f"op {curve.steps[point] + 1:,}" + (f", {curve.at[point]}" if curve.at[point] else "")
    return f"{at}: {format_bytes(total)} ({', '.join(parts)})"


def _path(curve: MemoryCurve, low: Sequence[int], high: Sequence[int], top: float) -> str:
    """Around what lies between two lines that change in steps: along the upper one, and back along the lower one."""
    xs = [0, *curve.steps[1:], curve.total_steps]
    there = _stairs([(_x(x, curve.total_steps), _y(y, top)) for x, y in zip(xs, high, strict=False)])
    back = _stairs([(_x(x, curve.total_steps), _y(y, top)) for x, y in zip(xs[:0:-1], low[::-1], strict=True)])
    return f"M0 {SIDE}{there}H{SIDE}{back}H0Z"


def _stairs(points: Sequence[tuple[str, str]]) -> str:
    """Across to where each step begins, then up or down to its height; steps of one height are one."""
    parts, height = [], None
    for x, y in points:
        if y != height:
            parts.append(f"H{x}V{y}")
            height = y
    return "".join(parts)


def _x(step: int, total: int) -> str:
    return f"{SIDE * step / total:.5g}"


def _y(nbytes: int, top: float) -> str:
    return f"{SIDE * (1 - nbytes / top):.5g}"
