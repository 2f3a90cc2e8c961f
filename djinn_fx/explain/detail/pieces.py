"""Pieces of one call after a graph break: what tells of a phase may be in another piece."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from djinn_fx.explain.report import GraphInfo, ReasonGroup
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.record import GraphKind, Phase


def continued(graphs: Iterable[GraphInfo]) -> tuple[GraphInfo, ...]:
    """A piece that nothing is known of by itself goes on with what the piece before it does."""
    found: list[GraphInfo] = []
    for graph in graphs:
        before = found[-1] if found else None
        found.append(graph if before is None or not _is_open(graph, before) else _like(graph, before))
    return tuple(found)


def _is_open(graph: GraphInfo, before: GraphInfo) -> bool:
    kinds = {graph.kind, before.kind}
    return kinds == {GraphKind.INFERENCE.value} and graph.phase == Phase.FORWARD.value and before.phase != graph.phase


def _like(graph: GraphInfo, before: GraphInfo) -> GraphInfo:
    named = [name for name in before.phases if name.partition("/")[0] == before.phase]
    main = max(named, key=lambda name: before.phases[name], default=str(before.phase))
    reason = ReasonGroup(
        kind=ReasonKind.PHASE.value, detail="goes on with the piece before the graph break", count=1, nodes=()
    )
    return replace(
        graph,
        phase=before.phase,
        phases={main: sum(graph.phases.values())},
        regions=tuple(replace(region, phase=before.phase) for region in graph.regions),
        reasons=(*(one for one in graph.reasons if one.kind != ReasonKind.PHASE.value), reason),
    )
