"""Workers as a topology: each machine's row, and what a value takes from one to another. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
#: What a worker's process takes beside models: Python, torch and Ray 0.3 GB of its own, then what compiling brings in
#: and what is under way. Seen with torch 2.13 and Ray 2.60 (anonymous memory before and after models of 0.13 GB).
PROCESS_BYTES = 400_000_000


def part_bytes(process_bytes: int) -> int:
    """What models may take of a worker, of bytes that its process may take: the one place where that is reckoned."""
    return max(0, process_bytes - PROCESS_BYTES)


def worker_topology(rows: Mapping[str, Device], links: Mapping[str, WorkerLink]) -> Topology:
    """Workers, each joined to each: a value goes straight from one to the other, as the slower of the two takes it.

    Args:
        rows: by worker.
        links: from here to each; those of workers that are lost are not used.
    """
    sources = "; ".join(dict.fromkeys(one.source for one in links.values()))
    build = TopologyBuilder("workers", sources)
    for name, row in rows.items():
        build.device(name, row, name)
    for one, other, link in pair_links({name: links[name] for name in rows}):
        cls = LinkClass(
            name="ray",
            kind="ray",
            bandwidth_bytes_s=link.bandwidth_bytes_s,
            latency_s=link.latency_s,
            source=sources,
        )
        build.connect(one, other, cls)
    return build.build()


def pair_links(links: Mapping[str, WorkerLink]) -> Iterator[tuple[str, str, WorkerLink]]:
    """Each two of the workers, and what a value takes from one to the other."""
    names = list(links)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            bandwidth = min(links[one].bandwidth_bytes_s, links[other].bandwidth_bytes_s)
            latency = max(links[one].latency_s, links[other].latency_s)
            yield one, other, WorkerLink(latency_s=latency, bandwidth_bytes_s=bandwidth, source=links[one].source)


def topology_text(links: Mapping[str, WorkerLink], memory_bytes: int | None = None) -> str:
    """Workers and what lies between them as a YAML file's section ``topology``: to plan with, without any worker.

    Args:
        links: from here to each; as to their processors, each worker is as the machine that reads the file.
        memory_bytes: what a model may take on each; None: what that machine has.
    """
    sources = "; ".join(dict.fromkeys(one.source for one in links.values()))
    row = "this-machine" if memory_bytes is None else f"{{row: this-machine, memory: {memory_bytes} B}}"
    lines = [f"# Workers, and the links between them: {sources}.", "topology:", "  hosts:"]
    lines += [f'    "{name}": {{cpu: {row}}}' for name in links]
    lines += ["  links:"] if len(links) > 1 else []
    for one, other, link in pair_links(links):
        rate, late = f"{link.bandwidth_bytes_s / 1e6:.3f} MB/s", f"{link.latency_s * 1e6:.3f} us"
        lines.append(f'    - {{between: ["{one}", "{other}"], bandwidth: {rate}, latency: {late}}}')
    return "\n".join(lines)
