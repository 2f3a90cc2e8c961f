"""A host's topology from what ``nvidia-smi topo -m`` prints. Imports no torch.

The matrix says for each pair of GPUs and network cards the nearest thing that joins them: NV# (that many NVLinks), PIX
(one PCIe switch), PXB (several), PHB (the PCIe root of one processor), NODE (several roots of one NUMA node), SYS
(another node). From this follow the PCIe switches, roots and nodes as a tree. Between GPUs that NVLink joins the matrix
does not say how PCIe would; those of one NUMA affinity are taken to share a node and no more.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.presets import preset
from djinn_fx.hardware.topology.topology import Topology

#: From near to far; what joins a pair joins it at every level from its own on.
_LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")
_UNIT = re.compile(r"GPU\d+|NIC\d+|(?:mlx|irdma|bnxt|efa|rdma)[\w.-]*")
#: NVLinks a GPU has at most (Hopper, Blackwell). More in one row than this: they lead to a switch, not to each peer.
_MOST_LANES = 18


@dataclass(frozen=True, kw_only=True)
class TopoMatrix:
    """The matrix as it was printed.

    Attributes:
        units: names of GPUs and network cards, in order.
        cells: what joins two units, by their names.
        numa: NUMA affinity of units that have one.
    """

    units: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]
    numa: Mapping[str, str]

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs."""
        return tuple(unit for unit in self.units if unit.startswith("GPU"))


def read_matrix(text: str, path: str = "nvidia-smi topo -m") -> TopoMatrix:
    """The matrix in a text, with or without its legend and colour codes.

    Raises:
        SettingsError: no matrix, a row that does not fit its heading, or a cell of an unknown kind; with the line.
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    heads = [(number, _units(line)) for number, line in enumerate(lines) if _units(line) and not _row_name(line)]
    if not heads:
        raise SettingsError(f"{path}: no heading with GPU0, …: is this what 'nvidia-smi topo -m' printed?")
    start, units = heads[0]
    has_numa = "NUMA Affinity" in lines[start]
    cells: dict[tuple[str, str], str] = {}
    numa: dict[str, str] = {}
    seen: list[str] = []
    for number, line in enumerate(lines[start + 1 :], start=start + 2):
        name = _row_name(line)
        if name is None:
            if seen and len(seen) == len(units):
                break
            continue
        found = line.split()[1:]
        if name not in units or name in seen or len(found) < len(units):
            raise SettingsError(f"{path}:{number}: row {name!r} does not fit the heading {' '.join(units)}")
        seen.append(name)
        for other, cell in zip(units, found[: len(units)], strict=True):
            if not re.fullmatch(r"X|NV\d+|" + "|".join(_LEVELS), cell) or (cell == "X") != (name == other):
                raise SettingsError(
                    f"{path}:{number}: {name} to {other} is {cell!r}; known: X, NV#, {', '.join(_LEVELS)}"
                )
            cells[name, other] = cell
        rest = found[len(units) :]
        if has_numa and len(rest) > 1 and rest[1] != "N/A":
            numa[name] = rest[1]
    if len(seen) < len(units):
        raise SettingsError(f"{path}: rows for {', '.join(u for u in units if u not in seen)} are missing")
    return TopoMatrix(units=tuple(units), cells=cells, numa=numa)


def _units(line: str) -> list[str]:
    """Units of a heading: those before the affinities."""
    units = []
    for word in line.split():
        if not _UNIT.fullmatch(word):
            break
        units.append(word)
    return units


def _row_name(line: str) -> str | None:
    """The unit whose row this is; a heading goes on with another unit, or with an affinity."""
    words = line.split()
    is_row = len(words) > 1 and _UNIT.fullmatch(words[0]) and not _UNIT.fullmatch(words[1]) and words[1] != "CPU"
    return words[0] if is_row else None


def from_nvidia_smi(
    text: str,
    device: str | Sequence[str],
    *,
    pcie: str = "pcie4-x16",
    nvlink: str | None = None,
    name: str = "host",
    path: str = "nvidia-smi topo -m",
) -> Topology:
    """The topology of the host on which the text was printed; nodes are called as there, in small letters.

    Args:
        text: what ``nvidia-smi topo -m`` printed.
        device: catalogue row or driver's name of the GPUs; one for all, or one for each.
        pcie: link class of each GPU and network card to what is above it; the matrix does not tell it.
        nvlink: link class of one NVLink; None: by the GPU's generation.
        name: of the topology.
        path: what errors call the text.

    Raises:
        SettingsError: as :func:`read_matrix`; an unknown device or class; NVLinks on a GPU of unknown generation.
    """
    matrix = read_matrix(text, path)
    rows = [device] * len(matrix.gpus) if isinstance(device, str) else list(device)
    if len(rows) != len(matrix.gpus):
        raise SettingsError(f"{path}: {len(matrix.gpus)} GPUs and {len(rows)} devices")
    build = TopologyBuilder(name, path)
    host = build.host("host")
    for unit, row in zip(matrix.gpus, rows, strict=True):
        build.device(unit.lower(), find_device(row), host)
    for unit in matrix.units:
        if unit not in matrix.gpus:
            build.switch(unit.lower(), host)
    _add_pcie(build, matrix, host, pcie)
    if any(cell.startswith("NV") for cell in matrix.cells.values()):
        _add_nvlink(build, matrix, nvlink or _nvlink_of(build, matrix, path))
    return build.build()


def _nvlink_of(build: TopologyBuilder, matrix: TopoMatrix, path: str) -> str:
    device = build.nodes[matrix.gpus[0].lower()].device
    assert device is not None
    for start, cls in (
        ("p100", "nvlink1"),
        ("v100", "nvlink2"),
        ("a100", "nvlink3"),
        ("h", "nvlink4"),
        ("b", "nvlink5"),
    ):
        if device.name.startswith(start):
            return cls
    raise SettingsError(f"{path}: which NVLink has {device.name}? Give its link class, such as 'nvlink4'")


def _add_nvlink(build: TopologyBuilder, matrix: TopoMatrix, cls: str) -> None:
    lanes = {pair: int(cell[2:]) for pair, cell in matrix.cells.items() if cell.startswith("NV")}
    most = max(sum(n for (one, _), n in lanes.items() if one == gpu) for gpu in matrix.gpus)
    if most > _MOST_LANES:
        switch = build.switch("nvswitch", "host")
        for gpu in matrix.gpus:
            own = max((n for (one, _), n in lanes.items() if one == gpu), default=0)
            if own:
                build.connect(gpu.lower(), switch, cls, lanes=own)
        return
    for (one, other), count in lanes.items():
        if matrix.units.index(one) < matrix.units.index(other):
            build.connect(one.lower(), other.lower(), cls, lanes=count)


def _add_pcie(build: TopologyBuilder, matrix: TopoMatrix, host: str, pcie: str) -> None:
    """Switches, roots and NUMA nodes; each unit's way to host memory leads up through them."""
    tops = {unit: unit.lower() for unit in matrix.units}
    for level, kind in enumerate(("pix", "pxb", "root", "numa")):
        groups = _groups(matrix, level)
        for number, members in enumerate(groups):
            below = sorted({tops[unit] for unit in members})
            # Switches stand where they join something; every unit has a root, every root a node.
            if len(below) == 1 and (kind in ("pix", "pxb") or (kind == "root" and below[0].startswith("root"))):
                continue
            made = build.switch(f"{kind}{number}", host)
            for each in below:
                build.connect(each, made, "cpu-memory" if each.startswith("root") else pcie)
            tops.update(dict.fromkeys(members, made))
    nodes = sorted(set(tops.values()))
    for node in nodes:
        build.connect(host, node, "cpu-memory")
    for number, one in enumerate(nodes):
        for other in nodes[number + 1 :]:
            build.connect(one, other, "upi")


def _groups(matrix: TopoMatrix, level: int) -> list[list[str]]:
    """Units that are joined at this level or nearer, each group in order."""
    groups: list[list[str]] = []
    for unit in matrix.units:
        near = [group for group in groups if any(_distance(matrix, unit, other) <= level for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(one for group in near for one in group), unit])
    return sorted((sorted(group, key=matrix.units.index) for group in groups), key=lambda g: matrix.units.index(g[0]))


def _distance(matrix: TopoMatrix, one: str, other: str) -> int:
    cell = matrix.cells[one, other]
    if not cell.startswith("NV"):
        return _LEVELS.index(cell)
    same = matrix.numa.get(one) == matrix.numa.get(other)
    return _LEVELS.index("NODE" if same else "SYS")


def this_machine() -> Topology:
    """This machine with its NVIDIA GPUs, as its own nvidia-smi tells; without the tool or GPUs, its processors only.

    Raises:
        SettingsError: a GPU that is in no catalogue, or output that cannot be read.
    """
    alone = preset("this-machine")
    if shutil.which("nvidia-smi") is None:
        return alone
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.split("\n")
        matrix = subprocess.run(
            ["nvidia-smi", "topo", "-m"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return alone
    rows = [name.strip() for name in names if name.strip()]
    found = from_nvidia_smi(matrix, rows, name="this-machine") if rows else alone
    return with_processors(found)


def with_processors(topology: Topology) -> Topology:
    """The same, this machine's processors computing where the host's memory is."""
    build = TopologyBuilder(topology.name, topology.source)
    for node in topology.nodes.values():
        if node.name == "host":
            build.host("host", find_device("this-machine"), node.serialisation)
        else:
            build.add(node)
    build.adopt(topology.links)
    return build.build()
