"""Placement problems in the JSON form of msr-fiddle/dnn-partitioning, and splits of them by experts.

Times are milliseconds there and stay so: figures of a problem that is read here are in the file's own unit. An edge's
``cost`` is the time to move its source's value between an accelerator and the host's memory, so that a link moves one
unit of "bytes" in one unit of time. Keys that a problem can do without are filled in; what cannot be done without is
named in the error.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from djinn_fx.errors import SolverError
from djinn_fx.solvers.placement.problem import Aim, Device, Goal, Operator, Problem

#: The kinds of devices: an accelerator ("FPGA" in the files, whatever it is) and the host's processor.
ACCELERATOR, HOST = 0, 1


@dataclass(frozen=True)
class Named:
    """A problem from a file.

    Attributes:
        name: of the file, with the folders that tell it from others.
        problem: what is placed on what.
        latency: whether the latency of one call is asked for, rather than throughput; by the folder's name.
        expert: the device of each operator as an expert put it; None where no file says.
        notes: what the file left out or said twice.
    """

    name: str
    problem: Problem
    latency: bool
    expert: tuple[int, ...] | None
    notes: tuple[str, ...]

    @property
    def goals(self) -> dict[str, Goal]:
        """What is asked of it, by name."""
        if self.latency:
            return {"latency": Goal(Aim.LATENCY)}
        return {"contiguous": Goal(Aim.LOAD), "not contiguous": Goal(Aim.LOAD, contiguous=False)}


def read_folder(folder: Path) -> tuple[list[Named], list[str]]:
    """Every problem below a folder, by name; and what could not be read: its place in the folder, and the reason."""
    found, wrong = [], []
    for path in sorted(folder.rglob("*.json")):
        if "human-experts" in path.parts:
            continue
        try:
            found.append(read_file(path, _experts(folder, path)))
        except (SolverError, ValueError) as error:
            wrong.append(f"{path.relative_to(folder)}: {error}")
    return found, wrong


def read_file(path: Path, experts: list[Path] | None = None) -> Named:
    """The problem in a file.

    Raises:
        SolverError: a key that is needed is not there, or what the file says is no problem.
        ValueError: it is not JSON.
    """
    content, notes = json.loads(path.read_text()), list[str]()
    if not isinstance(content, dict):
        raise SolverError("the file holds no object with nodes and edges")
    nodes, edges = _needed(content, "nodes", "the file"), _needed(content, "edges", "the file")
    places = {_needed(node, "id", f"node {at}"): at for at, node in enumerate(nodes)}
    costs = _costs(edges, notes)
    latency = any("latency" in part.lower() for part in path.parts[-4:])
    operators = tuple(_operator(node, costs.get(node["id"], 0.0), notes) for node in nodes)
    ends = []
    for edge in edges:
        pair = (_needed(edge, "sourceId", "an edge"), _needed(edge, "destId", "an edge"))
        lost = [end for end in pair if end not in places]
        if lost:
            raise SolverError(f"an edge goes from node {pair[0]} to {pair[1]}, and there is no node {lost[0]}")
        ends.append((places[pair[0]], places[pair[1]]))
    problem = Problem(operators, tuple(dict.fromkeys(ends)), _devices(content, latency, notes))
    split = next((one for one in experts or [] if one.exists()), None)
    expert = None if split is None else _expert(split, problem, places)
    name = "/".join((*(part for part in path.parts[-3:-1] if part.endswith(("inputs", "Graphs"))), path.stem))
    return Named(name, problem, latency, expert, tuple(dict.fromkeys(notes)))


def _needed(value: dict[str, Any], key: str, where: str) -> Any:
    if key not in value:
        raise SolverError(f"{where} has no {key!r}; it has {', '.join(map(repr, value))}")
    return value[key]


def _flag(value: Any) -> bool:
    """A truth value as files write it: true, 1, or a text of either."""
    return value.strip().lower() in ("1", "true", "yes") if isinstance(value, str) else bool(value)


def _costs(edges: list[dict[str, Any]], notes: list[str]) -> dict[Any, float]:
    """What moving each node's value costs: the same on all of its edges, by the form; the largest where it is not."""
    found: dict[Any, float] = {}
    for edge in edges:
        if "cost" not in edge:
            notes.append("edges without 'cost': 0 taken")
        source, cost = edge.get("sourceId"), float(edge.get("cost", 0.0))
        if source in found and abs(found[source] - cost) > 1e-6:
            notes.append("edges of one node with different costs: the largest taken")
        found[source] = max(found.get(source, 0.0), cost)
    return found


def _operator(node: dict[str, Any], cost: float, notes: list[str]) -> Operator:
    where = f"node {node['id']}"
    supported = _flag(node.get("supportedOnFpga", True))
    fast = float(_needed(node, "fpgaLatency", where)) if supported else math.inf
    for key, otherwise in (("size", 0), ("supportedOnFpga", "true"), ("isBackwardNode", "false")):
        if key not in node:
            notes.append(f"nodes without {key!r}: {otherwise} taken")
    if "cpuLatency" not in node:
        notes.append("nodes without 'cpuLatency': they are kept off the host")
    times = (fast, float(node.get("cpuLatency", math.inf)))
    colour = node.get("colorClass")
    return Operator(
        times,
        float(node.get("size", 0.0)),
        cost,
        None if colour is None else int(colour),
        backward=_flag(node.get("isBackwardNode", False)),
    )


def _devices(content: dict[str, Any], latency: bool, notes: list[str]) -> tuple[Device, ...]:
    room = float(_needed(content, "maxSizePerFPGA", "the file"))
    many = int(_needed(content, "maxFPGAs", "the file"))
    if "maxCPUs" not in content:
        notes.append("no 'maxCPUs': 1 taken")
    # For one call a host runs any number of operators at a time: one stands for all.
    hosts = 1 if latency else int(content.get("maxCPUs", 1))
    return (Device(ACCELERATOR, room, 1.0),) * many + (Device(HOST, host=True),) * hosts


def _experts(folder: Path, path: Path) -> list[Path]:
    """Where an expert's split may lie: of the file itself, or of the inference whose backward pass it adds."""
    names = [path.stem, path.stem.replace("training", "inference")]
    roots = [folder, *folder.parents[:1], *path.parents[1:4]]
    return [root / "human-experts" / f"{name}_expert.json" for name in names for root in roots]


def _expert(path: Path, problem: Problem, places: dict[Any, int]) -> tuple[int, ...] | None:
    """An expert's split; who is not in it goes where its group is. None where that does not say it for all."""
    content = json.loads(path.read_text())
    accelerators = [at for at, one in enumerate(problem.devices) if not one.host]
    hosts = [at for at, one in enumerate(problem.devices) if one.host]
    found: dict[int, int] = {}
    for devices, key in ((accelerators, "fpgas"), (hosts, "cpus")):
        for device, part in zip(devices, content.get(key, []), strict=False):
            found |= {places[node]: device for node in part["nodes"] if node in places}
    by_group = {problem.operators[at].group: device for at, device in found.items()}
    split = [found.get(at, by_group.get(one.group, -1)) for at, one in enumerate(problem.operators)]
    return tuple(split) if -1 not in split else None


def disturbed(problem: Problem, chance: Any) -> Problem:
    """A sibling of a problem: the same graph, every time, size and transfer up to a fifth larger or smaller."""
    groups: dict[int | None, float] = {}

    def changed(one: Operator) -> Operator:
        size = groups.setdefault(one.group, chance.uniform(0.8, 1.2))
        times = tuple(time * chance.uniform(0.8, 1.2) for time in one.times_s)
        output = one.output_bytes * chance.uniform(0.8, 1.2)
        return replace(one, times_s=times, memory_bytes=one.memory_bytes * size, output_bytes=output)

    return replace(problem, operators=tuple(map(changed, problem.operators)))
