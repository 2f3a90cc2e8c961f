"""A cluster's topology from Slurm's topology.conf: topology/tree and topology/block. Imports no torch.

The file names switches, what is below each, and nodes; it says neither what a node is nor, usually, how fast a link is
(Slurm reads LinkSpeed, in units of one's own, and does not use it). Those are arguments. A LinkSpeed with a unit, such
as ``LinkSpeed=200Gbit/s``, is taken for the links below its switch; a bare number is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from djinn_fx.errors import SettingsError, UnitError
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.topology.builder import MAX_NODES, TopologyBuilder
from djinn_fx.hardware.topology.topology import Topology, unknown
from djinn_fx.units import parse_bandwidth

_KEYS = ("switchname", "switches", "nodes", "linkspeed", "blockname", "blocksizes")


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A switch or block of the file: what is below it, and where it was written."""

    name: str
    nodes: tuple[str, ...]
    switches: tuple[str, ...]
    bandwidth_bytes_s: float | None
    line: int
    is_block: bool


def read_slurm(path: Path, device: str, link: str, *, devices: int = 1, inside: str = "pcie4-x16") -> Topology:
    """As :func:`from_slurm`, of a file."""
    text = read_text(path)
    return from_slurm(text, device, link, devices=devices, inside=inside, path=str(path))


def from_slurm(
    text: str, device: str, link: str, *, devices: int = 1, inside: str = "pcie4-x16", path: str = "topology.conf"
) -> Topology:
    """The topology that a topology.conf describes: hosts by their names, each with ``gpu0``, …, and the switches.

    Blocks, between which Slurm states no links, are taken to be joined by one switch, ``blocks``.

    Args:
        device: catalogue row of what computes in each node.
        link: link class between nodes and switches, and between switches.
        devices: how many there are in each node.
        inside: link class between a node's devices and its memory.

    Raises:
        SettingsError: a line that is no such line, an unknown key, a switch that is not there or below itself, a node
            below two switches, or nothing to place; with the line.
    """
    groups = _read(text, path)
    build = TopologyBuilder(Path(path).stem, path)
    row = find_device(device)
    for group in groups.values():
        build.switch(group.name)
    hosts: dict[str, str] = {}
    for group in groups.values():
        for node in group.nodes:
            if node in hosts and not group.is_block:
                raise SettingsError(f"{path}:{group.line}: node {node!r} is below {hosts[node]!r} already")
            if node not in hosts:
                _add_host(build, node, row.name, devices, inside)
            hosts[node] = group.name
            build.connect(node, group.name, link, bandwidth_bytes_s=group.bandwidth_bytes_s)
        for below in group.switches:
            if below not in groups:
                raise SettingsError(f"{path}:{group.line}: switch {below!r}, {unknown(below, groups)}")
            build.connect(below, group.name, link, bandwidth_bytes_s=group.bandwidth_bytes_s)
    _check_no_cycle(groups, path)
    if not hosts:
        raise SettingsError(f"{path}: there are no nodes")
    blocks = [group.name for group in groups.values() if group.is_block]
    if len(blocks) > 1:
        spine = build.switch("blocks")
        for name in blocks:
            build.connect(name, spine, link)
    return build.build()


def _add_host(build: TopologyBuilder, name: str, device: str, devices: int, inside: str) -> None:
    build.host(name)
    for number in range(devices):
        build.connect(build.device(f"{name}/gpu{number}", find_device(device), name), name, inside)


def _read(text: str, path: str) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for number, line in _lines(text):
        place = f"{path}:{number}"
        row: dict[str, str] = {}
        for word in line.split():
            key, equals, value = word.partition("=")
            if not equals or not value:
                raise SettingsError(f"{place}: {word!r} is not of the form Key=value")
            if key.lower() not in _KEYS:
                raise SettingsError(f"{place}: {key!r}, {unknown(key.lower(), _KEYS)}")
            row[key.lower()] = value
        if set(row) == {"blocksizes"}:
            continue
        name = row.get("switchname") or row.get("blockname")
        if name is None or not ("nodes" in row or "switches" in row):
            raise SettingsError(f"{place}: a line names a switch or block, and what is below it")
        nodes, switches = (tuple(expand(row.get(what, ""), place)) for what in ("nodes", "switches"))
        for one in expand(name, place):
            if one in groups:
                raise SettingsError(f"{place}: {one!r} is there twice; first in line {groups[one].line}")
            groups[one] = _Group(
                name=one,
                nodes=nodes,
                switches=switches,
                bandwidth_bytes_s=_speed(row.get("linkspeed"), place),
                line=number,
                is_block="blockname" in row,
            )
    return groups


def _lines(text: str) -> list[tuple[int, str]]:
    """Lines with something in them; one that ends in a backslash goes on in the next."""
    found: list[tuple[int, str]] = []
    held, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.partition("#")[0].strip()
        start = start or number
        if bare.endswith("\\"):
            held += bare[:-1] + " "
            continue
        if (held + bare).strip():
            found.append((start, (held + bare).strip()))
        held, start = "", 0
    return found


def _speed(value: str | None, place: str) -> float | None:
    """A LinkSpeed in bytes per second; None for a bare number, whose unit is the administrator's own."""
    if value is None or value.replace(".", "", 1).isdigit():
        return None
    try:
        return parse_bandwidth(value)
    except UnitError as error:
        raise SettingsError(f"{place}: LinkSpeed: {error}") from error


def expand(hostlist: str, place: str = "hostlist") -> list[str]:
    """The names in Slurm's short form: ``tux[0-2,12]`` is tux0, tux1, tux2, tux12; zeros in front are kept.

    Raises:
        SettingsError: brackets that do not close, a range that runs backwards, or too many names.
    """
    names: list[str] = []
    for part in _split(hostlist, place):
        pieces = re.split(r"\[([^\[\]]*)\]", part)
        found = [""]
        for position, piece in enumerate(pieces):
            choices = _numbers(piece, place) if position % 2 else [piece]
            if len(found) * len(choices) + len(names) > MAX_NODES:
                raise SettingsError(f"{place}: {hostlist!r:.60} stands for more than {MAX_NODES} names")
            found = [before + choice for before in found for choice in choices]
        names += found
    return names


def _split(hostlist: str, place: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in hostlist:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth not in (0, 1):
            raise SettingsError(f"{place}: brackets in {hostlist!r} do not match")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SettingsError(f"{place}: brackets in {hostlist!r} do not match")
    return [part for part in parts if part]


def _numbers(text: str, place: str) -> Sequence[str]:
    found: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise SettingsError(f"{place}: {part!r} is no number and no range of numbers")
        width = len(match[1])
        if int(match[2] or match[1]) - int(match[1]) + len(found) >= MAX_NODES:
            raise SettingsError(f"{place}: {part!r} stands for more than {MAX_NODES} numbers")
        found += [str(number).zfill(width) for number in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return found


def _check_no_cycle(groups: dict[str, _Group], path: str) -> None:
    """A switch may be below several others, but not below itself."""
    done: set[str] = set()
    for top in groups:
        # Not by recursion: a file may name a chain of thousands.
        chain, above = [(top, iter(groups[top].switches))], {top: 0}
        while chain and top not in done:
            name, rest = chain[-1]
            below = next((one for one in rest if one not in done), None)
            if below is None:
                done.add(name)
                del above[name]
                chain.pop()
            elif below in above:
                names = " -> ".join([*(one for one, _ in chain[above[below] :]), below])
                raise SettingsError(f"{path}:{groups[below].line}: a switch is below itself: {names}")
            else:
                above[below] = len(chain)
                chain.append((below, iter(groups[below].switches)))
