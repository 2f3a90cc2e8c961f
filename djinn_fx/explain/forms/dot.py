"""The graph by region for Graphviz: a cluster a device, an edge for what flows from region to region."""

from __future__ import annotations

import re
from collections.abc import Iterator

from djinn_fx.explain.forms.words import time_text
from djinn_fx.explain.report import GraphInfo, Report
from djinn_fx.units import format_bytes

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def to_dot(report: Report) -> str:
    """All graphs of all scenarios as one ``digraph``."""
    lines = [
        "digraph djinn {",
        "  rankdir=TB;",
        '  node [shape=box, style=rounded, fontname="Helvetica", fontsize=11];',
    ]
    lines.append('  edge [fontname="Helvetica", fontsize=9, color="#777777"];')
    for place, scenario in enumerate(report.scenarios):
        for number, graph in enumerate(scenario.graphs):
            title = f"{scenario.model} {scenario.name}".strip()
            kind = graph.phase or graph.kind
            lines += _graph(graph, f"s{place}g{number}", f"{title}: graph {number + 1}, {kind}")
    return "\n".join([*lines, "}"])


def _graph(graph: GraphInfo, name: str, title: str) -> Iterator[str]:
    yield f"  subgraph cluster_{name} {{"
    yield f"    label={_quoted(title)};"
    for number, device in enumerate(dict.fromkeys(region.device for region in graph.regions)):
        yield f"    subgraph cluster_{name}d{number} {{"
        yield f"      label={_quoted(device)}; color={_quoted('#bbbbbb')};"
        for region in graph.regions:
            if region.device == device:
                text = f"{region.label}\n{region.ops} ops, {time_text(region.cost)}"
                yield f"      {name}r{region.index} [label={_quoted(text)}];"
        yield "    }"
    for edge in graph.edges:
        many = f"{edge.values} values, " if edge.values > 1 else ""
        label = _quoted(f"{many}{format_bytes(edge.nbytes)}")
        yield f"    {name}r{edge.source} -> {name}r{edge.target} [label={label}];"
    yield "  }"


def _quoted(text: str) -> str:
    """A string of the DOT language; its line ends are those of labels."""
    lines = (_CONTROL.sub(" ", line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n"))
    return '"' + "\\n".join(lines) + '"'
