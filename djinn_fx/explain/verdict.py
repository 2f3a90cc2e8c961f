"""What a reader wants to know first: what runs on what, what that is worth, what is wrong, and what to do next."""

from __future__ import annotations

from collections import Counter

from djinn_fx.explain.finding.file import as_command
from djinn_fx.explain.report import Check, GraphInfo, Report
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.units import format_bytes, format_seconds

#: What went wrong, if anything did.
_WRONG = {one.value for one in (ReasonKind.INFEASIBLE, ReasonKind.FALLBACK, ReasonKind.QUARANTINED)}
#: Within this share two times are the same.
_SAME = 0.05


def verdict(report: Report) -> dict[str, str]:
    """The lines, by what each is about; those that have nothing to say are left out."""
    lines = {
        "runs on": _runs_on(report),
        "speed": _speed(report),
        "memory": _memory(report.graphs),
        "breaks": _breaks(report),
        "wrong": _wrong(report.graphs),
        "next": _next(report),
    }
    return {name: text for name, text in lines.items() if text}


def _runs_on(report: Report) -> str:
    regions = [region for graph in report.graphs for region in graph.regions]
    built = Counter(region.build.engine for region in regions if region.build is not None)
    devices = Counter(region.device for region in regions)
    where = ", ".join(devices)
    if built:
        total = sum(built.values())
        return f"{where}: " + ", ".join(f"{count} of {total} regions by {name}" for name, count in built.most_common())
    names = dict.fromkeys(one.engine for graph in report.graphs for one in graph.times if one.engine != EAGER)
    by = f"; of {', '.join(names)} the fastest on the first calls serves the others" if names else ""
    return f"{where}, {len(regions)} region{'' if len(regions) == 1 else 's'}{by}"


def _speed(report: Report) -> str:
    check = report.check
    if check is not None and check.call_s is not None and check.eager_s is not None:
        return _measured(check, check.call_s, check.eager_s)
    best = [next((one for one in graph.times if one.tells), None) for graph in report.graphs]
    eager = [next((one for one in graph.times if one.tells and one.engine == EAGER), None) for graph in report.graphs]
    if best and all(best) and all(eager):
        ours_s = sum(one.time_s for one in best if one is not None)
        eager_s = sum(one.time_s for one in eager if one is not None)
        return (
            f"{format_seconds(ours_s)} a call, eager {format_seconds(eager_s)}: {eager_s / ours_s:.2g} x, by estimate"
        )
    known_s = sum(graph.cost.time_s for graph in report.graphs)
    return f"about {format_seconds(known_s)} a call on its own ops, by estimate; what engines gain only --real tells"


def _measured(check: Check, call_s: float, eager_s: float) -> str:
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


def _breaks(report: Report) -> str:
    count = len(report.graph_breaks)
    if not count:
        return ""
    return f"{count} graph break{'' if count == 1 else 's'}: {len(report.graphs)} graphs, with Python between them"


def _wrong(graphs: tuple[GraphInfo, ...]) -> str:
    found = [reason for graph in graphs for reason in graph.reasons if reason.kind in _WRONG]
    more = f" (+{len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0].kind}: {found[0].detail}{more}" if found else ""


def _next(report: Report) -> str:
    if report.check is not None:
        return 'torch.compile(model, backend="djinn")'
    return as_command(report.model.file, report.model.attr, "--real")
