"""What a reader wants to know first: what runs on what, what that is worth, what is wrong, and what to do next."""

from __future__ import annotations

from collections import Counter

from djinn_fx.explain.finding.file import as_command
from djinn_fx.explain.report import Check, GraphInfo, ModelInfo, Report, Scenario, ScenarioRun
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.units import format_bytes, format_seconds

#: What went wrong, if anything did.
_WRONG = {one.value for one in (ReasonKind.INFEASIBLE, ReasonKind.FALLBACK, ReasonKind.QUARANTINED)}
#: Within this share two times are the same.
_SAME = 0.05


def verdict(model: ModelInfo, scenario: Scenario, run: ScenarioRun) -> dict[str, str]:
    """The lines on one scenario, by what each is about; those that have nothing to say are left out."""
    lines = {
        "runs on": _runs_on(scenario, run),
        "speed": _speed(scenario, run.check),
        "memory": _memory(scenario.graphs),
        "breaks": _breaks(scenario),
        "wrong": _wrong(scenario, run),
        "next": _next(model, run),
    }
    return {name: text for name, text in lines.items() if text}


def figures(report: Report) -> dict[str, list[str]]:
    """The main figures of a report on several scenarios: by name, a short text for each."""
    rows: dict[str, list[str]] = {}
    for scenario, run in zip(report.scenarios, report.run.scenarios, strict=True):
        built = Counter(build.engine for graph in run.graphs for build in graph.builds)
        phases = Counter[str]()
        for graph in scenario.graphs:
            phases.update(graph.phases)
        told = {
            "model": scenario.model,
            "ops": str(sum(graph.ops for graph in scenario.graphs)),
            "graphs": str(len(scenario.graphs)),
            "breaks": str(len(scenario.graph_breaks)),
            "phases": ", ".join(phases),
            "peak": format_bytes(max((graph.peak_bytes for graph in scenario.graphs), default=0)),
            "time": _time(scenario, run.check),
            "engine": ", ".join(built) or ", ".join(_engines(scenario)[:1]) or EAGER,
        }
        for name, text in told.items():
            rows.setdefault(name, []).append(text if scenario.failed is None or name == "model" else "failed")
    if len(set(rows.get("model", ()))) == 1:
        del rows["model"]
    return rows


def _time(scenario: Scenario, check: Check | None) -> str:
    if check is not None and check.call_s is not None:
        return f"{format_seconds(check.call_s)} measured"
    return f"{format_seconds(call_seconds(scenario, None))} estimated"


def call_seconds(scenario: Scenario, check: Check | None) -> float:
    """Seconds of a call: measured, else by estimate."""
    if check is not None and check.call_s is not None:
        return check.call_s
    best = _fastest(scenario)
    return best if best is not None else sum(graph.cost.time_s for graph in scenario.graphs)


def _engines(scenario: Scenario) -> list[str]:
    """Those that compete, the fastest by estimate first."""
    return list(dict.fromkeys(one.engine for graph in scenario.graphs for one in graph.times if one.engine != EAGER))


def _runs_on(scenario: Scenario, run: ScenarioRun) -> str:
    regions = [region for graph in scenario.graphs for region in graph.regions]
    built = Counter(build.engine for graph in run.graphs for build in graph.builds)
    where = ", ".join(Counter(region.device for region in regions))
    if built:
        total = sum(built.values())
        return f"{where}: " + ", ".join(f"{count} of {total} regions by {name}" for name, count in built.most_common())
    names = _engines(scenario)
    by = f"; of {', '.join(names)} the fastest on the first calls serves the others" if names else ""
    return f"{where}, {len(regions)} region{'' if len(regions) == 1 else 's'}{by}"


def _speed(scenario: Scenario, check: Check | None) -> str:
    if check is not None and check.call_s is not None and check.eager_s is not None:
        return _measured(check.call_s, check.eager_s)
    ours_s, eager_s = _fastest(scenario), _fastest(scenario, EAGER)
    if ours_s is not None and eager_s is not None:
        times = f"{format_seconds(ours_s)} a call, eager {format_seconds(eager_s)}"
        return f"{times}: {eager_s / ours_s:.2g} x, by estimate"
    known_s = sum(graph.cost.time_s for graph in scenario.graphs)
    return f"about {format_seconds(known_s)} a call on its own ops, by estimate; what engines gain only --real tells"


def _fastest(scenario: Scenario, engine: str | None = None) -> float | None:
    """Seconds of a call on the fastest engine of each graph, or on the one that is named; None: not told apart."""
    found = [
        next((one.time_s for one in graph.times if one.tells and engine in (None, one.engine)), None)
        for graph in scenario.graphs
    ]
    known = [time_s for time_s in found if time_s is not None]
    return sum(known) if known and len(known) == len(found) else None


def _measured(call_s: float, eager_s: float) -> str:
    times = f"{format_seconds(call_s)} a call, eager {format_seconds(eager_s)}, measured"
    if call_s > (1 + _SAME) * eager_s:
        return f"{times}: {call_s / eager_s:.2g} x as long as eager: compiling does not pay here"
    if call_s > (1 - _SAME) * eager_s:
        return f"{times}: no faster than eager"
    return f"{times}: {eager_s / call_s:.2g} x as fast"


def _memory(graphs: tuple[GraphInfo, ...]) -> str:
    peaks: dict[str, int] = {}
    for graph in graphs:
        for peak in graph.memory:
            peaks[peak.device] = max(peaks.get(peak.device, 0), peak.nbytes)
    texts = [f"{format_bytes(nbytes)} on {device}" for device, nbytes in peaks.items()]
    return f"at most {', '.join(texts)}, with the weights" if texts else ""


def _breaks(scenario: Scenario) -> str:
    count = len(scenario.graph_breaks)
    if not count:
        return ""
    return f"{count} graph break{'' if count == 1 else 's'}: {len(scenario.graphs)} graphs, with Python between them"


def _wrong(scenario: Scenario, run: ScenarioRun) -> str:
    told = [reason for graph in scenario.graphs for reason in graph.reasons]
    told += [reason for graph in run.graphs for reason in graph.reasons]
    found = [reason for reason in told if reason.kind in _WRONG]
    more = f" (+{len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0].kind}: {found[0].detail}{more}" if found else ""


def _next(model: ModelInfo, run: ScenarioRun) -> str:
    if run.check is not None or not model.file:
        return 'torch.compile(model, backend="djinn")'
    return as_command(model.file, model.attr, *model.words, "--real")
