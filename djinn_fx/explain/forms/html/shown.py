"""What the page shows of each scenario and graph, beside what the report says itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from djinn_fx.explain.detail.measured import RegionTime
from djinn_fx.explain.forms.html.flowchart import FlowChart, flow_chart
from djinn_fx.explain.forms.html.memorychart import MemoryChart, memory_charts
from djinn_fx.explain.forms.html.timechart import TimeChart, time_chart
from djinn_fx.explain.forms.words import per_token_text
from djinn_fx.explain.report import BuildInfo, GraphInfo, GraphRun, ModelInfo, Report, Scenario, ScenarioRun
from djinn_fx.explain.verdict import call_seconds, verdict
from djinn_fx.units import format_bytes, format_count, format_seconds

#: Region rows at most; the JSON form has all.
MOST_ROWS = 1000
#: Colours of devices; a thirteenth begins anew.
COLOURS = 12
#: Graphs that are drawn, the costliest; of the others only tables are shown.
MOST_DRAWN = 20
#: Graphs of a training step without breaks: forward and backward.
_HALVES = 2


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that stands out, and what qualifies it."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ShownGraph:
    """One graph with its charts. ``builds`` and measured ``times``: by region."""

    id: str
    title: str
    graph: GraphInfo
    run: GraphRun
    colours: dict[str, int]
    time: TimeChart | None
    memory: tuple[MemoryChart, ...]
    flow: FlowChart | None
    builds: dict[int, BuildInfo]
    times: dict[int, RegionTime]
    rows: int
    start_s: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class ShownScenario:
    """One scenario with its figures."""

    id: str
    title: str
    scenario: Scenario
    run: ScenarioRun
    verdict: dict[str, str]
    figures: tuple[Figure, ...]
    graphs: tuple[ShownGraph, ...]


@dataclass(frozen=True)
class _Drawing:
    """Colours of devices, and from how many seconds on a graph is drawn."""

    colours: dict[str, int]
    least_s: float


def shown_scenarios(report: Report) -> list[ShownScenario]:
    """In the report's order; a device has one colour on the whole page."""
    devices = [region.device for graph in report.graphs for region in graph.regions]
    colours = {name: place % COLOURS for place, name in enumerate(dict.fromkeys(devices))}
    costs = sorted((graph.cost.time_s for graph in report.graphs), reverse=True)
    least_s = costs[MOST_DRAWN - 1] if len(costs) > MOST_DRAWN else 0.0
    return [
        _scenario(f"s{place}", report.model, scenario, run, _Drawing(colours, least_s))
        for place, (scenario, run) in enumerate(zip(report.scenarios, report.run.scenarios, strict=True), start=1)
    ]


def _scenario(name: str, model: ModelInfo, scenario: Scenario, run: ScenarioRun, drawing: _Drawing) -> ShownScenario:
    graphs = tuple(
        _graph(f"{name}g{place}", f"Graph {place} of {len(scenario.graphs)}", graph, measured, drawing)
        for place, (graph, measured) in enumerate(zip(scenario.graphs, run.graphs, strict=True), start=1)
    )
    return ShownScenario(
        id=name,
        title=scenario.name or "The call",
        scenario=scenario,
        run=run,
        verdict=verdict(model, scenario, run),
        figures=tuple(figures(scenario, run)),
        graphs=graphs,
    )


def figures(scenario: Scenario, run: ScenarioRun) -> list[Figure]:
    """What is compared between scenarios."""
    graphs = scenario.graphs
    peaks = {
        peak.device: peak.nbytes
        for graph in sorted(graphs, key=lambda graph: graph.peak_bytes)
        for peak in graph.memory
    }
    regions, distinct = sum(len(graph.regions) for graph in graphs), sum(graph.distinct_regions for graph in graphs)
    measured = run.check is not None and run.check.call_s is not None
    moved = sum(graph.cost.read_bytes + graph.cost.write_bytes for graph in graphs)
    return [
        Figure(
            name="One call" if all(graph.kind == "inference" for graph in graphs) else "One step",
            value=format_seconds(call_seconds(scenario, run.check)),
            note=", ".join(filter(None, ("measured" if measured else "estimated", _each(graphs)))),
        ),
        Figure(
            name="Peak memory",
            value=format_bytes(max(peaks.values(), default=0)),
            note=_on(peaks),
        ),
        Figure(name="Regions", value=f"{regions:,}", note=f"{distinct:,} distinct to compile"),
        Figure(
            name="Graph breaks",
            value=f"{len(scenario.graph_breaks):,}",
            note="1 graph" if len(graphs) == 1 else f"{len(graphs):,} graphs",
        ),
        Figure(
            name="Work",
            value=f"{format_count(sum(graph.cost.flops for graph in graphs))}FLOP",
            note=f"{format_bytes(moved)} moved",
        ),
    ]


def _each(graphs: Sequence[GraphInfo]) -> str:
    """What a token takes, or the two halves of a training step; by estimate."""
    steps = [f"{graph.kind} {format_seconds(graph.cost.time_s)}" for graph in graphs if graph.kind != "inference"]
    return ", ".join(steps) if 0 < len(steps) <= _HALVES else next(filter(None, map(per_token_text, graphs)), "")


def _on(peaks: dict[str, int]) -> str:
    """Where the peak is; of several devices the peak of each."""
    if len(peaks) == 1:
        return f"on {next(iter(peaks))}"
    return ", ".join(f"{device} {format_bytes(nbytes)}" for device, nbytes in peaks.items())


def _graph(name: str, title: str, graph: GraphInfo, run: GraphRun, drawing: _Drawing) -> ShownGraph:
    kind = graph.kind if graph.phase in (None, graph.kind) else f"{graph.kind}, {graph.phase}"
    labels = [region.label for region in graph.regions]
    colours, drawn = drawing.colours, graph.cost.time_s >= drawing.least_s
    return ShownGraph(
        id=name,
        title=f"{title}: {kind}",
        graph=graph,
        run=run,
        colours=colours,
        time=time_chart(graph.timeline, labels, colours) if graph.timeline.spans and drawn else None,
        memory=tuple(chart for curve in graph.curves for chart in memory_charts(curve)) if drawn else (),
        flow=_flow(graph, colours) if drawn else None,
        builds={build.region: build for build in run.builds},
        times={one.region: one for one in run.times},
        rows=min(MOST_ROWS, len(graph.regions)),
        start_s={span.region: span.start_s for span in graph.timeline.spans},
    )


def _flow(graph: GraphInfo, colours: dict[str, int]) -> FlowChart | None:
    order: Sequence[int] = [span.region for span in graph.timeline.spans]
    return flow_chart(graph.regions, order, graph.edges, colours) if order else None
