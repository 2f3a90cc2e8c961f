"""A topology from a network file of ASTRA-sim's analytical network (YAML or JSON). Imports no torch.

Dimensions of rings, full meshes and switches, multiplied: an NPU's place in each is a digit of its number, the first
dimension's counting fastest. Bandwidth is in GB/s for each link and direction, latency in ns for each link; a switch
costs two links. ASTRA-sim's own code reads a GB as 2**30 bytes (``bw_GBps_to_Bpns`` in NetworkFunction), and so does
this. Its equation for a message, all links' latencies and size / bandwidth, is that of nodes which cut through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from djinn_fx.errors import SettingsError
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.topology.builder import TopologyBuilder
from djinn_fx.hardware.topology.links import LinkClass
from djinn_fx.hardware.topology.topology import Topology
from djinn_fx.hardware.yaml_places import Entry, read_entries

_GB = 2**30
_SHAPES = ("Ring", "FullyConnected", "Switch")
#: Today's keys, and those of ASTRA-sim 1.0 that say the same.
_KEYS = {
    "topology": "topologies-per-dim",
    "npus_count": "units-count",
    "bandwidth": "link-bandwidth",
    "latency": "link-latency",
}
#: Keys of version 1.0 that say nothing of the links between NPUs.
_UNUSED = (
    "topology-name", "dimensions-count", "dimension-type", "links-count", "nic-latency", "router-latency",
    "hbm-latency", "hbm-bandwidth", "hbm-scale",
)  # fmt: skip
#: More would be a mistake: a full mesh of so many has millions of links.
_MOST = 65_536
_MOST_DIMENSIONS = 16


def read_astra_sim(path: Path, device: str) -> Topology:
    """As :func:`from_astra_sim`, of a file."""
    text = read_text(path)
    return from_astra_sim(text, device, path=str(path))


def from_astra_sim(text: str, device: str, *, path: str = "network.yml") -> Topology:
    """The topology that a network file describes: ``npu0``, ``npu1``, … and the switches.

    Args:
        text: YAML or JSON, of today's form or of version 1.0's.
        device: catalogue row of each NPU; the file does not say what they are.

    Raises:
        SettingsError: an unknown key or shape, lists of unequal length, or a figure out of range; with line and column.
    """
    whole = read_entries(text, path)
    if whole is None:
        raise SettingsError(f"{path}: the file is empty")
    keys = whole.mapping("the network", (*_KEYS, *_KEYS.values(), *_UNUSED))
    rows = {new: keys.get(new, keys.get(old)) for new, old in _KEYS.items()}
    for name, row in rows.items():
        if row is None:
            raise whole.error(f"the network: there is no {name!r}")
    lists = {name: row.items(name) for name, row in rows.items() if row is not None}
    shapes = [_shape(entry) for entry in lists["topology"]]
    for name, items in lists.items():
        if len(items) != len(shapes):
            raise keys[name if name in keys else _KEYS[name]].error(
                f"{name}: {len(items)} values for {len(shapes)} dimensions"
            )
    if len(shapes) > _MOST_DIMENSIONS:
        raise whole.error(f"{len(shapes)} dimensions are more than {_MOST_DIMENSIONS}")
    counts = [entry.count("npus_count") for entry in lists["npus_count"]]
    if math.prod(counts) > _MOST:
        raise whole.error(f"{math.prod(counts)} NPUs are more than {_MOST}")
    classes = [
        LinkClass(
            name=f"dimension{number}-{shape.lower()}",
            kind="other",
            bandwidth_bytes_s=_positive(lists["bandwidth"][number], "bandwidth") * _GB,
            latency_s=_positive(lists["latency"][number], "latency", zero=True) * 1e-9,
            source=path,
        )
        for number, shape in enumerate(shapes)
    ]
    return _build(Path(path).stem, path, find_device(device).name, shapes, counts, classes)


def _shape(entry: Entry) -> str:
    if entry.value not in _SHAPES:
        raise entry.error(f"topology: expected one of {', '.join(_SHAPES)}, found {entry.value!r}")
    return str(entry.value)


def _positive(entry: Entry, what: str, zero: bool = False) -> float:
    value: Any = entry.value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise entry.error(f"{what}: expected a {'number of at least' if zero else 'number above'} 0, found {value!r}")
    return float(value)


def _build(
    name: str, path: str, device: str, shapes: list[str], counts: list[int], classes: list[LinkClass]
) -> Topology:
    build = TopologyBuilder(name, path)
    # The first dimension's digit counts fastest.
    places = [place[::-1] for place in itertools.product(*(range(count) for count in reversed(counts)))]
    npus = {place: f"npu{number}" for number, place in enumerate(places)}
    row = find_device(device)
    for npu in npus.values():
        build.device(npu, row, host=npu, forwarding="cut-through")
    for dimension, (shape, count, cls) in enumerate(zip(shapes, counts, classes, strict=True)):
        others = {(*place[:dimension], 0, *place[dimension + 1 :]) for place in places}
        for number, base in enumerate(sorted(others, key=lambda place: place[::-1])):
            places_here = [(*base[:dimension], digit, *base[dimension + 1 :]) for digit in range(count)]
            members = [npus[place] for place in places_here]
            _join(build, shape, members, cls, f"switch{dimension}.{number}")
    return build.build()


def _join(build: TopologyBuilder, shape: str, members: list[str], cls: LinkClass, switch: str) -> None:
    if len(members) == 1:
        return
    if shape == "Switch":
        build.switch(switch)
        pairs: Iterable[tuple[str, str]] = [(member, switch) for member in members]
    elif shape == "Ring":
        # A ring of two is one link: both neighbours are the same.
        pairs = list(itertools.pairwise([*members, members[0]]))[: 1 if len(members) == 2 else None]
    else:
        pairs = itertools.combinations(members, 2)  # one by one: the builder says when there are too many
    for one, other in pairs:
        build.connect(one, other, cls)
