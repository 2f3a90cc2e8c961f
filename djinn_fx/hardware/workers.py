"""Workers as a topology: each machine's row, and what a value takes from one to another. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import LinkClass
from djinn_fx.hardware.topology.topology import Topology


@dataclass(frozen=True, kw_only=True)
class WorkerLink:
    """What a value takes to a worker: seconds for the first byte, then bytes per second; ``source``: how known."""

    latency_s: float
    bandwidth_bytes_s: float
    source: str


#: Of workers that nobody has measured: what Ray takes on one machine, in orders of magnitude.
ASSUMED = WorkerLink(latency_s=1e-3, bandwidth_bytes_s=1e9, source="assumed")


def worker_topology(rows: Mapping[str, Device], links: Mapping[str, WorkerLink]) -> Topology:
    """Workers, each joined to each: a value goes straight from one to the other, as the slower of the two takes it.

    Args:
        rows: by worker.
        links: from here to each.
    """
    sources = "; ".join(dict.fromkeys(one.source for one in links.values()))
    build = TopologyBuilder("workers", sources)
    for name, row in rows.items():
        build.device(name, row, name)
    names = list(rows)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            link = LinkClass(
                name="ray",
                kind="ray",
                bandwidth_bytes_s=min(links[one].bandwidth_bytes_s, links[other].bandwidth_bytes_s),
                latency_s=max(links[one].latency_s, links[other].latency_s),
                source=sources,
            )
            build.connect(one, other, link)
    return build.build()
