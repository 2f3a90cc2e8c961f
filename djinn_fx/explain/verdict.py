"""What a reader wants to know first: what runs on what, what that is worth, what is wrong, and what to do next."""

from __future__ import annotations

import math
from collections import Counter

from djinn_fx.dispatch.entrant import State
from djinn_fx.explain.finding.file import as_command
from djinn_fx.explain.report import Check, ModelInfo, Report, Scenario, ScenarioRun, reasons_of
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.engines import EAGER, TRAITS
from djinn_fx.units import format_bytes, format_seconds

#: What went wrong, if anything did.
_WRONG = {one.value for one in (ReasonKind.INFEASIBLE, ReasonKind.FALLBACK, ReasonKind.QUARANTINED)}
_FAILED = State.FAILED.value
#: Within this share two times are the same.
_SAME = 0.05


def verdict(model: ModelInfo, scenario: Scenario, run: ScenarioRun) -> dict[str, str]:
    """The lines on one scenario, by what each is about; those that have nothing to say are left out."""
    lines = {
        "runs on": _runs_on(scenario, run),
        "speed": _speed(scenario, run.check),
        "first call": _first_call(scenario, run),
        "pays": _pays(scenario, run),
        "memory": _memory(scenario, run),
        "devices": _devices(scenario),
        "breaks": _breaks(scenario),
        "wrong": _wrong(scenario, run),
        "next": _next(model, run),
    }
    return {name: text for name, text in lines.items() if text}


def figures(report: Report) -> dict[str, list[str]]:
    """The main figures of a report on several scenarios: by name, a short text for each."""
    rows: dict[str, list[str]] = {}
    for scenario, run in zip(report.scenarios, report.run.scenarios, strict=True):
        built = serving(run)
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
    best, eager = _fastest(scenario), _fastest(scenario, EAGER)
    return best if best is not None and eager is not None else sum(graph.cost.time_s for graph in scenario.graphs)


def _engines(scenario: Scenario) -> list[str]:
    """Those that compete, the fastest by estimate first."""
    return list(dict.fromkeys(one.engine for graph in scenario.graphs for one in graph.times if one.engine != EAGER))


def _runs_on(scenario: Scenario, run: ScenarioRun) -> str:
    regions = [region for graph in scenario.graphs for region in graph.regions]
    where = ", ".join(Counter(region.device for region in regions))
    served = serving(run)
    if served:
        total = sum(served.values())
        return f"{where}: " + ", ".join(f"{count} of {total} regions by {name}" for name, count in served.most_common())
    names = _engines(scenario)
    by = f"; of {', '.join(names)} the fastest on the first calls serves the others" if names else ""
    return f"{where}, {len(regions)} region{'' if len(regions) == 1 else 's'}{by}"


def serving(run: ScenarioRun) -> Counter[str]:
    """How many regions each engine serves: after a trial the one that won it, else the one that was built."""
    found: Counter[str] = Counter()
    winners = [contest.engine for contest in run.contests]
    for graph in run.graphs:
        if len(graph.builds) == 1 and winners:
            found[winners.pop(0)] += 1
        else:
            found.update(build.engine for build in graph.builds)
    return found


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


def _first_call(scenario: Scenario, run: ScenarioRun) -> str:
    """How long the first call takes, with what it waits for."""
    if run.first_s is not None:
        found = sum(build.outcome in ("memory", "store") for graph in run.graphs for build in graph.builds)
        total = sum(build.outcome != "shared" for graph in run.graphs for build in graph.builds)
        return f"{format_seconds(run.first_s)}, measured; {found} of {total} artefacts were in the cache"
    told = [graph.forecast for graph in scenario.graphs if graph.forecast is not None]
    if not told:
        return ""
    plan_s, build_s = (sum(getattr(one, name) for one in told) for name in ("plan_s", "build_s"))
    engines = ", ".join(dict.fromkeys(one.engine for one in told if one.engine != EAGER))
    building = f", {format_seconds(build_s)} of it to build for {engines}" if engines else ""
    return f"about {format_seconds(plan_s + build_s)} where nothing is cached{building}, by estimate"


def _pays(scenario: Scenario, run: ScenarioRun) -> str:
    """From how many calls on compiling pays; the bad news first."""
    check = run.check
    if check is not None and check.call_s is not None and check.eager_s is not None and run.first_s is not None:
        if check.call_s >= (1 - _SAME) * check.eager_s:
            return "never here: a call is no faster than eager's"
        calls = math.ceil((run.first_s - check.eager_s) / (check.eager_s - check.call_s)) + 1
        return _pays_after(calls, scenario.expected_calls, "as measured")
    told = [graph.forecast for graph in scenario.graphs if graph.forecast is not None]
    savings = [one.saving_s for one in told if one.saving_s is not None]
    if len(savings) < len(scenario.graphs) or not savings:
        return ""
    if sum(savings) <= 0:
        return "never, by estimate: no engine is expected to be faster than eager"
    return _pays_after(
        math.ceil(sum(one.plan_s + one.build_s for one in told) / sum(savings)), scenario.expected_calls, "by estimate"
    )


def _pays_after(calls: int, expected: int, how: str) -> str:
    if calls > expected:
        return (
            f"called less than {calls:,} times this does not pay, {how}, and {expected:,} calls are expected "
            "(the setting expected_calls)"
        )
    return f"after {max(calls, 1):,} call{'' if calls <= 1 else 's'}, {how}; called less often, eager is faster"


def _memory(scenario: Scenario, run: ScenarioRun) -> str:
    """The peaks, what of them are weights, and the copies of weights that engines keep."""
    peaks: dict[str, int] = {}
    for graph in scenario.graphs:
        for peak in graph.memory:
            peaks[peak.device] = max(peaks.get(peak.device, 0), peak.nbytes)
    if not peaks:
        return ""
    weights = max(graph.residency_bytes.get("parameter", 0) for graph in scenario.graphs)
    texts = [f"{format_bytes(nbytes)} on {device}" for device, nbytes in peaks.items()]
    beyond = max(0, max(peaks.values()) - weights)
    own = f", {format_bytes(beyond)} of it beside the weights" if len(peaks) == 1 and weights else ""
    return f"at most {', '.join(texts)}{own}{_copies(scenario, run, weights)}"


def _copies(scenario: Scenario, run: ScenarioRun, weights: int) -> str:
    kept = [one for contest in run.contests for one in contest.entrants if one.engine == contest.engine]
    copied = sum(one.memory_bytes for one in kept)
    if run.check is not None:
        names = ", ".join(dict.fromkeys(one.engine for one in kept if one.memory_bytes))
        return f"; {names} keeps {format_bytes(copied)} of copied weights beyond that" if copied else ""
    binding = [name for name in _engines(scenario) if TRAITS[name].binds_weights]
    return (
        f"; a copy of the weights more, {format_bytes(weights)}, if {' or '.join(binding)} serves"
        if binding and weights
        else ""
    )


def _devices(scenario: Scenario) -> str:
    """Whether more than one device is worth it, where there is a choice."""
    placed = [graph.placement for graph in scenario.graphs if graph.placement is not None]
    if not placed:
        return ""
    used = dict.fromkeys(share.device for one in placed for share in one.shares)
    offered = max(one.devices for one in placed)
    if len(used) == 1 and offered > 1:
        return f"{offered} devices are not worth it here: {next(iter(used))} alone is at least as fast"
    return f"{len(used)} of {offered} are used: {', '.join(used)}"


def _breaks(scenario: Scenario) -> str:
    count = len(scenario.graph_breaks)
    if not count:
        return ""
    return f"{count} graph break{'' if count == 1 else 's'}: {len(scenario.graphs)} graphs, with Python between them"


def _wrong(scenario: Scenario, run: ScenarioRun) -> str:
    found = [f"{reason.kind}: {reason.detail}" for reason in reasons_of(scenario, run) if reason.kind in _WRONG]
    found += [
        f"{one.engine} failed: {one.reason}"
        for contest in run.contests
        for one in contest.entrants
        if one.state == _FAILED
    ]
    more = f" (+{len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}" if found else ""


def _next(model: ModelInfo, run: ScenarioRun) -> str:
    if run.check is not None or not model.file:
        return 'torch.compile(model, backend="djinn")'
    return as_command(model.file, model.attr, *model.words, "--real")
