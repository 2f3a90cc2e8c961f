"""Where the bars of a timeline lie: a track for each device and each link. Lengths across are shares of the width in
percent, so that a page may be as narrow as a phone; heights are pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from djinn_fx.explain.detail.timeline import Timeline
from djinn_fx.explain.forms.html.scale import Tick, ticks
from djinn_fx.units import format_bytes, format_seconds

#: Pixels: a track with its name above, a bar, and the axis below.
TRACK, BAR, NAME, AXIS = 52, 26, 20, 24
#: Per cent: below it a bar is drawn together with its neighbours, and no bar is narrower.
NARROW = 0.25
#: Per cent: from these on a bar has the end of its name in it, and the whole of it.
NAMED, WHOLLY = 2.5, 14.0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One or more runs on a track.

    ``regions``: whose; ``tone``: of the track's colour, to tell neighbours apart; ``about``: the whole text.
    """

    left: float
    width: float
    label: str
    about: str
    regions: tuple[int, ...]
    tone: int


@dataclass(frozen=True, kw_only=True)
class Track:
    """A device, or a link between two. ``top``: where it begins; ``colour``: the device's number, None for a link."""

    name: str
    note: str
    top: int
    colour: int | None
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class TimeChart:
    """All of it. Heights in pixels."""

    tracks: tuple[Track, ...]
    ticks: tuple[Tick, ...]
    height: int


@dataclass(frozen=True)
class _Run:
    start_s: float
    duration_s: float
    label: str
    about: str
    regions: tuple[int, ...]


def time_chart(timeline: Timeline, labels: Sequence[str], colours: dict[str, int]) -> TimeChart:
    """The chart of a timeline.

    Args:
        timeline: of one graph.
        labels: of its regions.
        colours: of its devices.
    """
    end = max([timeline.end_s, *(move.start_s + (move.duration_s or 0.0) for move in timeline.moves)])
    runs = [*_devices(timeline, labels), *_links(timeline)]
    tracks = tuple(
        Track(name=name, note=note, top=place * TRACK, colour=colours.get(name), bars=_bars(found, end))
        for place, (name, note, found) in enumerate(runs)
    )
    return TimeChart(tracks=tracks, ticks=ticks(end, format_seconds), height=max(1, len(tracks)) * TRACK + AXIS)


def _devices(timeline: Timeline, labels: Sequence[str]) -> Iterator[tuple[str, str, list[_Run]]]:
    for device in dict.fromkeys(span.device for span in timeline.spans):
        spans = [span for span in timeline.spans if span.device == device]
        busy = sum(span.duration_s for span in spans)
        share = f"{busy / timeline.end_s:.0%} busy" if timeline.end_s > 0 else ""
        runs = [
            _Run(
                span.start_s,
                span.duration_s,
                labels[span.region],
                f"{labels[span.region]}, {format_seconds(span.duration_s)} from {format_seconds(span.start_s)}",
                (span.region,),
            )
            for span in spans
        ]
        yield device, share, runs


def _links(timeline: Timeline) -> Iterator[tuple[str, str, list[_Run]]]:
    for source, target in dict.fromkeys((move.source, move.target) for move in timeline.moves):
        moves = [move for move in timeline.moves if (move.source, move.target) == (source, target)]
        nbytes = format_bytes(sum(move.nbytes for move in moves))
        runs = []
        for move in moves:
            takes = "time unknown" if move.duration_s is None else format_seconds(move.duration_s)
            about = f"{move.value}, {format_bytes(move.nbytes)}, {takes} from {format_seconds(move.start_s)}"
            runs.append(_Run(move.start_s, move.duration_s or 0.0, move.value, about, (move.before_region,)))
        yield f"{source} → {target}", nbytes, runs


def _bars(runs: Sequence[_Run], end_s: float) -> tuple[Bar, ...]:
    scale = 100 / end_s if end_s > 0 else 0.0
    bars: list[Bar] = []
    for group in _groups(sorted(runs, key=lambda run: run.start_s), NARROW / scale if scale else 1.0):
        first, last = group[0], group[-1]
        left, width = first.start_s * scale, (last.start_s + last.duration_s - first.start_s) * scale
        seconds = format_seconds(sum(run.duration_s for run in group))
        many = f"{len(group)} from {first.label} to {last.label}, {seconds}"
        bars.append(
            Bar(
                left=round(min(left, 100 - NARROW), 3),
                width=round(max(width, NARROW), 3),
                label=_fitting(first.label, width) if len(group) == 1 else "",
                about=first.about if len(group) == 1 else many,
                regions=tuple(region for run in group for region in run.regions),
                tone=len(bars) % 2,
            )
        )
    return tuple(bars)


def _fitting(label: str, width: float) -> str:
    """What of a name a bar has room for."""
    if width < NAMED:
        return ""
    return label if width >= WHOLLY else label.rpartition(".")[2]


def _groups(runs: Sequence[_Run], narrow_s: float) -> Iterator[list[_Run]]:
    """Runs one by one; those too short to be seen together with the short ones beside them."""
    together: list[_Run] = []
    for run in runs:
        short = run.duration_s < narrow_s
        if together and (not short or run.start_s > together[-1].start_s + together[-1].duration_s + narrow_s):
            yield together
            together = []
        if short:
            together.append(run)
        else:
            yield [run]
    if together:
        yield together
