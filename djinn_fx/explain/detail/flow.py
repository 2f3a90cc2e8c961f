"""What flows between the regions of a graph."""

from __future__ import annotations

from dataclasses import dataclass

from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Edge:
    """Values that one region makes and another reads: region indices, how many there are, and their bytes."""

    source: int
    target: int
    values: int
    nbytes: int


def edges(srg: SRG, plan: Plan) -> tuple[Edge, ...]:
    """By target, then source."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for region in plan.regions:
        for name in region.inputs:
            record = srg.record(srg.node(name))
            if record.region is not None and record.region != region.index:
                values, nbytes = found.get((region.index, record.region), (0, 0))
                found[region.index, record.region] = (values + 1, nbytes + record.nbytes)
    return tuple(
        Edge(source=source, target=target, values=values, nbytes=nbytes)
        for (target, source), (values, nbytes) in sorted(found.items())
    )
