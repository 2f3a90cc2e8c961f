"""What changed between two reports: verdicts, figures, engines, breaks, and regions by their structural hash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from djinn_fx.errors import SettingsError
from djinn_fx.explain.forms.words import group_label, group_regions, plural_s
from djinn_fx.explain.report import SCHEMA, Report, Scenario, ScenarioRun
from djinn_fx.explain.verdict import call_seconds, verdict
from djinn_fx.units import format_bytes, format_count, format_seconds

#: Breaks and regions that are listed of each sort.
_MOST = 20
#: What, how it was, how it is.
Change = tuple[str, str, str]
Formatter = Callable[[float], str]


def read_report(name: str) -> Report:
    """The report in a file that ``--json`` wrote.

    Raises:
        SettingsError: there is none, or it has another schema.
    """
    try:
        text = Path(name).read_text("utf-8")
        found = json.loads(text)
    except OSError as error:
        raise SettingsError(f"--compare {name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"--compare {name}: is not JSON: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        has = f"has the schema {schema!r}" if schema else "is no report of explain"
        raise SettingsError(f"--compare {name}: {has}, and this version reads {SCHEMA!r}; write it anew with --json")
    try:
        return TypeAdapter(Report).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"--compare {name}: no whole report: {where}: {first['msg']}") from error


def comparison(before: Report, after: Report) -> str:
    """What is different, as text; one line if nothing is."""
    parts = [("model", [*_models(before, after)])]
    old, new = ({one.name: (one, run) for one, run in _scenarios(report)} for report in (before, after))
    gone, fresh = [name for name in old if name not in new], [name for name in new if name not in old]
    parts.append(("scenarios", [*(("", name, "is gone") for name in gone), *(("", name, "is new") for name in fresh)]))
    for name in (one for one in old if one in new):
        changes = [*_verdicts(before, old[name], after, new[name]), *_figures(old[name], new[name])]
        changes += [*_breaks(old[name][0], new[name][0]), *_regions(old[name][0], new[name][0])]
        parts.append((f"scenario {name}" if name else "call", changes))
    lines = [line for title, changes in parts if changes for line in (f"{title}:", *map(_line, changes))]
    return "\n".join(lines or ["no difference"])


def _line(change: Change) -> str:
    name, before, after = change
    return f"  {name:<12}{before} → {after}" if name else f"  {before} {after}"


def _scenarios(report: Report) -> Iterable[tuple[Scenario, ScenarioRun]]:
    return zip(report.scenarios, report.run.scenarios, strict=True)


def _models(before: Report, after: Report) -> Iterator[Change]:
    yield from _differing(
        ("name", before.model.name, after.model.name),
        ("file", before.model.file, after.model.file),
        ("mode", before.model.mode, after.model.mode),
        ("parameters", format_count(before.model.parameter_count), format_count(after.model.parameter_count)),
        *((name, before.versions.get(name, "none"), version) for name, version in after.versions.items()),
    )


def _verdicts(
    before: Report, old: tuple[Scenario, ScenarioRun], after: Report, new: tuple[Scenario, ScenarioRun]
) -> Iterator[Change]:
    was, is_now = verdict(before.model, *old), verdict(after.model, *new)
    for name in dict.fromkeys((*was, *is_now)):
        if name != "next":
            yield from _differing((name, was.get(name, "nothing"), is_now.get(name, "nothing")))


def _figures(old: tuple[Scenario, ScenarioRun], new: tuple[Scenario, ScenarioRun]) -> Iterator[Change]:
    for (name, before, text), (_, after, _) in zip(_numbers(*old), _numbers(*new), strict=True):
        if before != after:
            change = f" ({after / before - 1:+.1%})" if before else ""
            yield name, text(before), f"{text(after)}{change}"
    yield from _differing(
        ("engines", _engines(old[1]), _engines(new[1])), ("priced for", _priced_for(old[0]), _priced_for(new[0]))
    )


def _numbers(scenario: Scenario, run: ScenarioRun) -> list[tuple[str, float, Formatter]]:
    graphs, check = scenario.graphs, run.check
    return [
        ("estimate", call_seconds(scenario, None), format_seconds),
        ("measured", check.call_s or 0.0 if check is not None else 0.0, format_seconds),
        ("peak", max((graph.peak_bytes for graph in graphs), default=0), lambda value: format_bytes(round(value))),
        ("ops", sum(graph.ops for graph in graphs), format_count),
        ("work", sum(graph.cost.flops for graph in graphs), lambda value: f"{format_count(value)}FLOP"),
        ("graphs", len(graphs), format_count),
        ("regions", sum(len(graph.regions) for graph in graphs), format_count),
        ("distinct", sum(graph.distinct_regions for graph in graphs), format_count),
    ]


def _engines(run: ScenarioRun) -> str:
    counts = Counter(build.engine for graph in run.graphs for build in graph.builds)
    return ", ".join(f"{count} by {engine}" for engine, count in sorted(counts.items())) or "not built"


def _priced_for(scenario: Scenario) -> str:
    priced = (graph.pricing for graph in scenario.graphs)
    return ", ".join(dict.fromkeys(f"{one.device} by {one.model}" for one in priced if one is not None)) or "nothing"


def _breaks(before: Scenario, after: Scenario) -> Iterator[Change]:
    old, new = Counter(before.graph_breaks), Counter(after.graph_breaks)
    yield from _listed((" ".join(text.split()) for text in (old - new).elements()), "graph break gone:")
    yield from _listed((" ".join(text.split()) for text in (new - old).elements()), "graph break new:")


def _regions(before: Scenario, after: Scenario) -> Iterator[Change]:
    """Artefacts that are no longer needed, and those that were not; one without a hash is its label's."""
    old, new = _artefacts(before), _artefacts(after)
    yield from _listed((f"{old[one]} ({one})" for one in old if one not in new), "artefact gone:")
    yield from _listed((f"{new[one]} ({one})" for one in new if one not in old), "artefact new:")
    same = [one for one in old if one in new]
    if len(same) < max(len(old), len(new)):
        yield "", f"{len(same)} artefact{plural_s(len(same))}", "in both"


def _artefacts(scenario: Scenario) -> dict[str, str]:
    regions = [region for graph in scenario.graphs for region in graph.regions]
    return {
        group[0].structural_hash or f"no hash: {group[0].label}": group_label(group) for group in group_regions(regions)
    }


def _listed(texts: Iterable[str], what: str) -> Iterator[Change]:
    found = list(texts)
    yield from (("", what, text) for text in found[:_MOST])
    if len(found) > _MOST:
        yield "", what, f"+{len(found) - _MOST} more"


def _differing(*changes: Change) -> Iterator[Change]:
    return (change for change in changes if change[1] != change[2])
