"""The report as a Chrome trace (Trace Event Format), which Perfetto and speedscope open: a track a device or link."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from djinn_fx.explain.report import GraphInfo, Report, Scenario, ScenarioRun

_MICRO = 1e6
Event = dict[str, Any]


def to_trace(report: Report) -> str:
    """The trace as JSON text. A scenario is a process, its graphs follow each other; times are estimates.

    What was measured is a process of its own: compiling; one call, where it was timed, and runs of regions.
    """
    events: list[Event] = []
    for place, scenario in enumerate(report.scenarios, start=1):
        name = f"{scenario.model} {scenario.name}".strip()
        events += _process(2 * place - 1, f"{name}: one call, by estimate", _call(scenario))
    for place, run in enumerate(report.run.scenarios, start=1):
        name = f"{report.scenarios[place - 1].model} {run.name}".strip()
        events += _process(2 * place, f"{name}: measured", _measured(report.scenarios[place - 1], run))
    told = {"schema": report.schema, "model": report.model.name, "made": report.run.when}
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": told})


def _process(number: int, name: str, runs: Iterator[tuple[str, Event]]) -> Iterator[Event]:
    """The events of a process whose tracks are numbered in the order in which they are first met."""
    yield {"ph": "M", "pid": number, "tid": 0, "name": "process_name", "args": {"name": name}}
    yield {"ph": "M", "pid": number, "tid": 0, "name": "process_sort_index", "args": {"sort_index": number}}
    tracks: dict[str, int] = {}
    for track, event in runs:
        if track not in tracks:
            tracks[track] = len(tracks) + 1
            meta = {"ph": "M", "pid": number, "tid": tracks[track]}
            yield {**meta, "name": "thread_name", "args": {"name": track}}
            yield {**meta, "name": "thread_sort_index", "args": {"sort_index": tracks[track]}}
        yield {"ph": "X", "pid": number, "tid": tracks[track], **event}


def _call(scenario: Scenario) -> Iterator[tuple[str, Event]]:
    began_s = 0.0
    for graph in scenario.graphs:
        yield from _graph(graph, began_s)
        began_s += graph.timeline.end_s


def _graph(graph: GraphInfo, began_s: float) -> Iterator[tuple[str, Event]]:
    for span in graph.timeline.spans:
        region = graph.regions[span.region]
        told = {
            "region": region.index,
            "ops": region.ops,
            "phase": region.phase,
            "hash": region.structural_hash,
            "flops": region.cost.flops,
            "bytes": region.cost.read_bytes + region.cost.write_bytes,
            "provenance": region.cost.provenance,
        }
        yield (
            span.device,
            _event(region.label, graph.phase or graph.kind, began_s + span.start_s, span.duration_s, told),
        )
    for move in graph.timeline.moves:
        told = {"bytes": move.nbytes, "before": graph.regions[move.before_region].label}
        start_s, link = began_s + move.start_s, f"{move.source} → {move.target}"
        yield link, _event(move.value, "transfer", start_s, move.duration_s or 0.0, told)


def _measured(scenario: Scenario, run: ScenarioRun) -> Iterator[tuple[str, Event]]:
    """What compiling took; beside it one call of the built model and of eager, and each region that was timed."""
    yield from _compiling(run)
    for name, seconds in (
        (("one call", run.check.call_s), ("one call of eager", run.check.eager_s)) if run.check else ()
    ):
        if seconds is not None:
            yield name, _event(name, "call", 0.0, seconds, {})
    began_s = 0.0
    for graph, known in zip(scenario.graphs, run.graphs, strict=True):
        times = {one.region: one for one in known.times}
        for one in (times[span.region] for span in graph.timeline.spans if span.region in times):
            region = graph.regions[one.region]
            told = {"engine": one.engine, "calls": one.calls, "estimated_us": round(region.cost.time_s * _MICRO, 3)}
            yield f"regions on {region.device}", _event(region.label, one.engine, began_s, one.time_s, told)
            began_s += one.time_s


def _compiling(run: ScenarioRun) -> Iterator[tuple[str, Event]]:
    """Passes and builds of the graphs one after the other; when each began was not noted."""
    began_s = 0.0
    for number, graph in enumerate(run.graphs, start=1):
        for one in graph.passes:
            yield "passes", _event(one.name, "pass", began_s, one.seconds, {"graph": number})
            began_s += one.seconds
        for build in graph.builds:
            told = {"graph": number, "region": build.region, "engine": build.engine, "outcome": build.outcome}
            yield "builds", _event(f"region {build.region}", build.engine, began_s, build.seconds, told)
            began_s += build.seconds


def _event(name: str, category: str, start_s: float, duration_s: float, told: Event) -> Event:
    return {
        "name": name,
        "cat": category,
        "ts": round(start_s * _MICRO, 3),
        "dur": round(duration_s * _MICRO, 3),
        "args": told,
    }
