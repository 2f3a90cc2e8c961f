"""The graph by region for Model Explorer: its JSON of graphs, whose nodes name where they are and what they read."""

from __future__ import annotations

import json
from typing import Any

from djinn_fx.explain.forms.words import cost_text
from djinn_fx.explain.report import GraphInfo, Report
from djinn_fx.units import format_bytes


def to_model_explorer(report: Report) -> str:
    """One collection with all graphs of all scenarios, as JSON text."""
    graphs = [
        {
            "id": " ".join(filter(None, (scenario.name, f"graph {number}", graph.phase or graph.kind))),
            "nodes": _nodes(graph),
        }
        for scenario in report.scenarios
        for number, graph in enumerate(scenario.graphs, start=1)
    ]
    return json.dumps({"label": report.model.name, "graphs": graphs}, indent=1)


def _nodes(graph: GraphInfo) -> list[dict[str, Any]]:
    reads: dict[int, list[dict[str, str]]] = {}
    sizes: dict[int, list[dict[str, str]]] = {}
    for edge in graph.edges:
        found = reads.setdefault(edge.target, [])
        found.append(
            {"sourceNodeId": str(edge.source), "sourceNodeOutputId": "0", "targetNodeInputId": str(len(found))}
        )
        text = f"{edge.values} values, {format_bytes(edge.nbytes)}"
        sizes.setdefault(edge.target, []).append({"key": f"from {graph.regions[edge.source].label}", "value": text})
    return [
        {
            "id": str(region.index),
            "label": region.label.rpartition(".")[2] or region.label,
            "namespace": "/".join(region.label.split(".")[:-1]),
            "incomingEdges": reads.get(region.index, []),
            "attrs": [
                {"key": "region", "value": region.label},
                {"key": "device", "value": region.device},
                {"key": "phase", "value": region.phase or "mixed"},
                {"key": "ops", "value": str(region.ops)},
                {"key": "cost", "value": cost_text(region.cost)},
                {"key": "hash", "value": region.structural_hash},
                *sizes.get(region.index, []),
            ],
        }
        for region in graph.regions
    ]
