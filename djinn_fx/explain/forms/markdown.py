"""The report in a few lines of Markdown, as a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from djinn_fx.explain.forms.words import group_label, group_regions, partial_text, plural_s, reason_text, time_text
from djinn_fx.explain.report import Report, Scenario, ScenarioRun
from djinn_fx.explain.verdict import figures, verdict

#: What Markdown or HTML would read as its own.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&@])")
#: Rows and reasons at most.
_MOST = 20


def to_markdown(report: Report) -> str:
    """Verdict, figures of the scenarios, breaks and what to do; the rest is folded."""
    model = report.model
    lines = [f"### {_plain(model.name)}, {model.mode}: what djinn decided", ""]
    several = len(report.scenarios) > 1
    if several:
        lines += [*_scenarios(report), ""]
    for scenario, run in zip(report.scenarios, report.run.scenarios, strict=True):
        if several:
            lines += [f"#### {_plain(scenario.name)}", ""]
        lines += _scenario(report, scenario, run)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines.append(f"<sub>{_plain(model.file)} · {_plain(versions)} · {report.run.when}</sub>")
    return "\n".join(lines)


def _scenarios(report: Report) -> Iterator[str]:
    yield from _table(
        ["", *(scenario.name for scenario in report.scenarios)],
        [[name, *texts] for name, texts in figures(report).items()],
    )


def _scenario(report: Report, scenario: Scenario, run: ScenarioRun) -> Iterator[str]:
    lines = verdict(report.model, scenario, run)
    command = lines.pop("next", "")
    yield from (f"- **{_plain(name)}**: {_plain(text)}" for name, text in lines.items())
    yield ""
    if scenario.graph_breaks:
        yield f"**{len(scenario.graph_breaks)} graph break{plural_s(len(scenario.graph_breaks))}**"
        yield ""
        for number, text in enumerate(scenario.graph_breaks[:_MOST], start=1):
            yield f"{number}. {_plain(' '.join(text.split()))}"
        yield ""
    if scenario.failed is not None:
        yield f"**Failed**: {_plain(scenario.failed)}"
        yield ""
    if scenario.partial is not None:
        yield f"**Partial**: {_plain(partial_text(report.model, scenario.partial))}"
        yield ""
    if command:
        yield from ("Next:", "", "```", command.replace("```", "'''"), "```", "")
    for number, (graph, measured) in enumerate(zip(scenario.graphs, run.graphs, strict=True), start=1):
        kind = graph.phase or graph.kind
        count = f"{len(graph.regions)} region{plural_s(len(graph.regions))}, {graph.distinct_regions} distinct"
        yield f"<details><summary>Graph {number}, {_plain(kind)}: {graph.ops} ops, {count}</summary>"
        yield ""
        groups = group_regions(graph.regions)
        rows = [
            [group_label(group), str(group[0].ops), group[0].device, time_text(group[0].cost), group[0].structural_hash]
            for group in groups[:_MOST]
        ]
        yield from _table(["region", "ops", "device", "time", "hash"], rows)
        yield ""
        yield from (f"- {_plain(reason_text(reason))}" for reason in (*measured.reasons, *graph.reasons)[:_MOST])
        yield from ("", "</details>", "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_plain, heads))} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row))} |"


def _plain(text: str) -> str:
    """Text that is to be read as it stands, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
