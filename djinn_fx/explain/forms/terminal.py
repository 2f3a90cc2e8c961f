"""The report as text for a reader, 100 columns at most."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from djinn_fx.explain.finding.file import COMMAND
from djinn_fx.explain.forms.placement import placement_lines
from djinn_fx.explain.forms.words import (
    IMPORTANCE,
    cache_text,
    check_text,
    contest_texts,
    cost_text,
    costliest_text,
    found_text,
    group_label,
    group_regions,
    interval_text,
    is_routine,
    limits_text,
    memory_text,
    partial_text,
    pays_text,
    peak_text,
    per_token_text,
    phases_text,
    plural_s,
    pricing_text,
    rarely_called_text,
    reason_text,
    some,
    time_text,
)
from djinn_fx.explain.report import (
    BuildInfo,
    Check,
    GraphInfo,
    GraphRun,
    PassTime,
    ReasonGroup,
    RegionInfo,
    Report,
    Scenario,
    ScenarioRun,
)
from djinn_fx.explain.verdict import figures, verdict
from djinn_fx.units import format_bytes, format_count, format_seconds

WIDTH = 100
_MAX_REASONS = 12
_MAX_LINES = 12
_MAX_ROWS = 40
_INDENT = 14


def print_report(report: Report, file: TextIO, *, verbose: bool = False) -> None:
    """Print the report; in colour only where the file is a terminal.

    Args:
        report: what is printed.
        file: where to.
        verbose: also rows that say "none", and what was decided by routine.
    """
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, highlight=False, force_terminal=file.isatty(), legacy_windows=False)
    _model(console, report)
    if len(report.scenarios) > 1:
        _columns(console, report)
    for scenario, run in zip(report.scenarios, report.run.scenarios, strict=True):
        if len(report.scenarios) > 1:
            _heading(console, f"Scenario {scenario.name}: {', '.join(scenario.inputs)}")
        _scenario(console, report, scenario, run, verbose)
    if report.cache.lookups:
        _heading(console, "Cache")
        _row(console, "artefacts", cache_text(report.cache))
    file.writelines(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _scenario(console: Console, report: Report, scenario: Scenario, run: ScenarioRun, verbose: bool) -> None:
    if scenario.failed is not None:
        _row(console, "failed", scenario.failed)
        return
    _heading(console, "Verdict")
    for name, text in verdict(report.model, scenario, run).items():
        _row(console, name, text)
    _graph_breaks(console, scenario.graph_breaks)
    for number, (graph, measured) in enumerate(zip(scenario.graphs, run.graphs, strict=True), start=1):
        _graph(console, graph, measured, f"Graph {number} of {len(scenario.graphs)}", verbose, scenario.expected_calls)
    if scenario.partial is not None:
        _heading(console, "Partial")
        _row(console, "ends at", partial_text(report.model, scenario.partial))
    if run.contests:
        _heading(console, "Trial")
    for contest in run.contests:
        for place, text in enumerate(contest_texts(contest)):
            _row(console, "" if place else contest.label, text)
    if run.check is not None:
        _check(console, run.check)


def _check(console: Console, check: Check) -> None:
    _heading(console, "Check")
    _row(console, "result", check_text(check))
    if check.live_bytes is not None:
        _row(console, "memory", memory_text(check.foretold_bytes, check.live_bytes))
    for engine, rounding in check.rounding.items():
        _row(console, "rounding", f"{engine}: {rounding}")


def _columns(console: Console, report: Report) -> None:
    """The main figures, a column a scenario."""
    _heading(console, "Verdict")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("  scenario")
    for scenario in report.scenarios:
        table.add_column(escape(scenario.name), overflow="fold")
    for name, texts in figures(report).items():
        table.add_row(f"  {name}", *map(escape, texts))
    console.print(table)


def _model(console: Console, report: Report) -> None:
    model = report.model
    _heading(console, "Model")
    _row(console, "name", f"{model.name} ({model.mode})")
    _row(console, "found", found_text(report))
    _row(console, "parameters", f"{format_count(model.parameter_count)} in {format_bytes(model.parameter_bytes)}")
    _row(console, "versions", ", ".join(f"{name} {version}" for name, version in report.versions.items()))


def _graph(console: Console, graph: GraphInfo, run: GraphRun, title: str, verbose: bool, expected_calls: int) -> None:
    kind = graph.kind if graph.phase in (None, graph.kind) else f"{graph.kind}, {graph.phase}"
    total, distinct = len(graph.regions), graph.distinct_regions
    regions = f"{total} region{plural_s(total)}, {distinct} distinct to compile"
    _heading(console, f"{title}: {kind}, {graph.ops} op{plural_s(graph.ops)}, {regions}")
    _regions(console, graph.regions, run.builds)
    rare = rarely_called_text(graph.regions, expected_calls)
    if rare and not run.builds:
        _row(console, "", rare)
    _row(console, "phases", phases_text(graph))
    held = [f"{name} {format_bytes(size)}" for name, size in graph.residency_bytes.items() if size]
    _row(console, "memory", f"peak {format_bytes(graph.peak_bytes)}; {', '.join(held)}")
    for peak in graph.memory:
        _row(console, "peak", peak_text(peak, graph.values))
    if graph.transfers or verbose:
        _transfers(console, graph)
    for place, line in enumerate(placement_lines(graph.placement) if graph.placement is not None else ()):
        _row(console, "" if place else "placement", line)
    each = per_token_text(graph)
    _row(console, "cost", cost_text(graph.cost) + (f"; {each}, {graph.tokens} in a call" if each else ""))
    if graph.spent is not None and graph.spent.time_s > 0:
        _row(console, "limited by", limits_text(graph.spent))
        _row(console, "costliest", costliest_text(graph.spent))
    _pricing(console, graph)
    _passes(console, run.passes)
    _builds(console, graph.regions, run.builds)
    _reasons(console, (*graph.reasons, *run.reasons), verbose)


def _pricing(console: Console, graph: GraphInfo) -> None:
    """Where the times come from, what the engines would take, and what has no price."""
    telling = [one for one in graph.times if one.tells]
    if telling:
        _row(console, "expected", ", ".join(f"{one.engine} {interval_text(one)}" for one in telling))
    if graph.pricing is not None:
        _row(console, "times by", pricing_text(graph.pricing))
    if graph.unpriced:
        names = [f"{op} ×{count}" for op, count in graph.unpriced.items()]
        unpriced = sum(graph.unpriced.values())
        share = f"{unpriced} of {graph.ops} op{plural_s(graph.ops)} ({graph.unpriced_share:.0%})"
        _row(console, "unpriced", f"{share}: {some(names, 6)}")


def _regions(console: Console, regions: tuple[RegionInfo, ...], builds: tuple[BuildInfo, ...]) -> None:
    built = bool(builds)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("  regions", overflow="fold", max_width=42)
    for name in ("ops", "in", "out"):
        table.add_column(name, justify="right")
    table.add_column("phase")
    table.add_column("device")
    table.add_column("time" if not built else "estimate", justify="right")
    if not built:
        table.add_column("pays after", justify="right")
    table.add_column("built" if built else "hash", no_wrap=True)
    groups = group_regions(regions)
    for group in groups[:_MAX_ROWS]:
        first = group[0]
        table.add_row(
            "  " + escape(group_label(group)),
            str(first.ops),
            str(first.inputs),
            str(first.outputs),
            first.phase or "mixed",
            first.device,
            f"{'~' if len(group) > 1 else ''}{time_text(first.cost)}",
            *([_built(group, builds)] if built else [pays_text(first), first.structural_hash or "none: not shared"]),
        )
    console.print(table)
    if len(groups) > _MAX_ROWS:
        _row(console, "", f"+{len(groups) - _MAX_ROWS} more, see --json")


def _built(group: list[RegionInfo], builds: tuple[BuildInfo, ...]) -> str:
    build = _first_build(group, builds)
    return f"{build.engine}: {build.outcome} {format_seconds(build.seconds)}" if build else "not built"


def _builds(console: Console, regions: tuple[RegionInfo, ...], builds: tuple[BuildInfo, ...]) -> None:
    firsts = [build for group in group_regions(regions) if (build := _first_build(group, builds))]
    if firsts:
        counts = Counter(f"{build.engine} {build.outcome}" for build in firsts)
        texts = ", ".join(f"{count} {name}" for name, count in counts.items())
        spent = format_seconds(sum(build.seconds for build in builds))
        _row(console, "engines", f"{texts}, for {len(regions)} region{plural_s(len(regions))}; {spent}")


def _first_build(group: list[RegionInfo], builds: tuple[BuildInfo, ...]) -> BuildInfo | None:
    """The build that tells most about regions that share an artefact: a fallback, else the one that took longest."""
    numbers = {region.index for region in group}
    of_group = [build for build in builds if build.region in numbers]
    return max(of_group, key=lambda build: (build.outcome == "fallback", build.seconds), default=None)


def _passes(console: Console, passes: tuple[PassTime, ...]) -> None:
    total = format_seconds(sum(one.seconds for one in passes))
    slowest = sorted(passes, key=lambda one: -one.seconds)[:3]
    names = ", ".join(f"{one.name} {format_seconds(one.seconds)}" for one in slowest)
    _row(console, "passes", f"{len(passes)} in {total}; slowest: {names}" if slowest else "none")


def _transfers(console: Console, graph: GraphInfo) -> None:
    moved = [
        f"{t.value} {t.source} → {t.target}, {format_bytes(t.nbytes)}, before region {t.before_region}"
        for t in graph.transfers
    ]
    _row(console, "transfers", some(moved, _MAX_LINES, "; ") if moved else "none")


def _reasons(console: Console, reasons: tuple[ReasonGroup, ...], verbose: bool) -> None:
    rank = {kind.value: position for position, kind in enumerate(IMPORTANCE)}
    telling = [reason for reason in reasons if verbose or not is_routine(reason)]
    ordered = sorted(telling, key=lambda reason: (rank.get(reason.kind, len(rank)), -reason.count))
    chosen = _fair_choice(ordered)
    for position, reason in enumerate(chosen):
        _row(console, "why" if position == 0 else "", reason_text(reason))
    if len(reasons) > len(chosen):
        _row(
            console,
            "",
            f"+{len(reasons) - len(chosen)} more, see {'--json' if len(telling) == len(reasons) else '-v and --json'}",
        )


def _fair_choice(ordered: list[ReasonGroup]) -> list[ReasonGroup]:
    """The most important reasons, but no kind crowds out the others: at most three of each."""
    taken: dict[str, int] = {}
    chosen = []
    for reason in ordered:
        taken[reason.kind] = taken.get(reason.kind, 0) + 1
        if taken[reason.kind] <= 3:
            chosen.append(reason)
    return chosen[:_MAX_REASONS]


def _graph_breaks(console: Console, graph_breaks: tuple[str, ...]) -> None:
    if not graph_breaks:
        return
    _heading(console, f"{len(graph_breaks)} graph break{plural_s(len(graph_breaks))}")
    for number, reason in enumerate(graph_breaks[:_MAX_LINES], start=1):
        _row(console, f"{number}", reason)
    if len(graph_breaks) > _MAX_LINES:
        _row(console, "", f"+{len(graph_breaks) - _MAX_LINES} more, see --json")


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(escape(text), style="bold cyan")


def _row(console: Console, name: str, text: str) -> None:
    # A command stays whole, and so does what has no space, such as a path: it is there to be copied.
    width = len(text) + 1 if text.startswith(COMMAND) else WIDTH - _INDENT
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    console.print(f"[bold]{f'  {name}':{_INDENT}}[/bold]{escape(lines[0])}", soft_wrap=True)
    for line in lines[1:]:
        console.print(" " * _INDENT + escape(line), soft_wrap=True)
