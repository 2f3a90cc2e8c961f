"""Links: classes with their source, and one direction of one link as a transfer sees it. Imports no torch."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from djinn_fx.errors import SettingsError, UnitError, did_you_mean
from djinn_fx.hardware.catalogue import devices_file
from djinn_fx.units import parse_bandwidth, parse_seconds

SCHEMA = "djinn_fx.links/1"

#: Where a link's figures come from.
DATASHEET = "datasheet"
MEASURED = "measured"
MIXED = "mixed"

#: Ends of the 80 % interval as shares of the time, where only a datasheet is known. A statement, not a measurement: at
#: best the peak instead of the usual share of it, at worst a link used by others as well.
DATASHEET_INTERVAL = (0.75, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkClass:
    """A sort of link, as its standard or vendor states it.

    Attributes:
        name: such as ``"nvlink4"`` or ``"ethernet-10g"``.
        kind: ``nvlink``, ``pcie``, ``ethernet``, ``infiniband``, ``loopback``, …
        bandwidth_bytes_s: peak of one direction of one link, in bytes per second.
        efficiency: share of the peak that a long transfer attains, in (0, 1].
        latency_s: seconds until the first byte of one link has arrived.
        half_duplex: whether both directions share the bandwidth.
        serialised: whether tensors travel over it as messages that one end makes and the other reads.
        source: a URL, or how it was found.
    """

    name: str
    kind: str
    bandwidth_bytes_s: float
    latency_s: float
    efficiency: float = 1.0
    half_duplex: bool = False
    serialised: bool = False
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Serialisation:
    """What it costs one end to make a message of a tensor, or a tensor of a message.

    Attributes:
        bytes_s: bytes per second; infinite if nothing is copied.
        fixed_s: seconds for every message.
        source: where the figures come from.
    """

    bytes_s: float
    fixed_s: float
    source: str

    def time_s(self, nbytes: int) -> float:
        """Seconds for a message of that size."""
        return self.fixed_s + nbytes / self.bytes_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One direction of a link between two nodes of a topology.

    Attributes:
        name: unique in its topology.
        source: node that sends.
        target: node that receives.
        kind: name of the class, for reports.
        bandwidth_bytes_s: what a long transfer attains in this direction, in bytes per second.
        latency_s: seconds until the first byte has arrived.
        medium: links of one medium share its time: two transfers at once take half each. A link's own name if it
            shares nothing.
        serialised: whether tensors travel over it as messages.
        curve: measured (bytes, seconds after the latency), growing in both; empty: bytes / bandwidth.
        interval: ends of the 80 % interval as shares of the time.
        provenance: ``datasheet`` or ``measured``.
    """

    name: str
    source: str
    target: str
    kind: str
    bandwidth_bytes_s: float
    latency_s: float
    medium: str
    serialised: bool = False
    curve: tuple[tuple[int, float], ...] = ()
    interval: tuple[float, float] = DATASHEET_INTERVAL
    provenance: str = DATASHEET

    def stream_s(self, nbytes: int) -> float:
        """Seconds from the first byte's arrival to the last one's, with the link to itself.

        Between measured sizes a straight line; beyond the last one at the rate of the bandwidth.
        """
        if not self.curve:
            return nbytes / self.bandwidth_bytes_s
        sizes = [size for size, _ in self.curve]
        place = bisect_left(sizes, nbytes)
        if place == len(sizes):
            return self.curve[-1][1] + (nbytes - sizes[-1]) / self.bandwidth_bytes_s
        low_size, low_s = self.curve[place - 1] if place else (0, 0.0)
        high_size, high_s = self.curve[place]
        return low_s + (high_s - low_s) * (nbytes - low_size) / max(1, high_size - low_size)


def make_link(
    name: str,
    source: str,
    target: str,
    cls: LinkClass,
    *,
    lanes: int = 1,
    bandwidth_bytes_s: float | None = None,
    latency_s: float | None = None,
    medium: str | None = None,
    serialised: bool | None = None,
) -> Link:
    """One direction of a link of a class; what is given stands in for the class's own.

    Args:
        lanes: how many links of the class are bundled (NVLink).
        bandwidth_bytes_s: peak of the bundle in this direction; the class's efficiency applies to it.
    """
    peak = bandwidth_bytes_s if bandwidth_bytes_s is not None else lanes * cls.bandwidth_bytes_s
    return Link(
        name=name,
        source=source,
        target=target,
        kind=cls.name,
        bandwidth_bytes_s=peak * cls.efficiency,
        latency_s=cls.latency_s if latency_s is None else latency_s,
        medium=name if medium is None else medium,
        serialised=cls.serialised if serialised is None else serialised,
    )


def links_file() -> Path:
    """Where the data file is: beside the devices'."""
    return devices_file().with_name("links.yaml")


@functools.cache
def link_classes() -> Mapping[str, LinkClass]:
    """All classes of the shipped data file, by name."""
    return read_links(links_file())[0]


@functools.cache
def default_serialisation() -> Serialisation:
    """What serialising costs a host that says nothing else."""
    return read_links(links_file())[1]


def find_link_class(name: str) -> LinkClass:
    """The class of that name.

    Raises:
        SettingsError: there is none; the message names the nearest.
    """
    rows = link_classes()
    if name not in rows:
        hint = did_you_mean(name.lower(), rows, ".", cutoff=0.4)
        raise SettingsError(f"no link class {name!r}{hint} Known: {', '.join(rows)}")
    return rows[name]


def read_links(path: Path) -> tuple[Mapping[str, LinkClass], Serialisation]:
    """Read a data file: the classes by name, and what serialising costs.

    Raises:
        SettingsError: not the schema, a row without a source, a figure without a unit or out of range.
    """
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise SettingsError(f"{path}: expected schema {SCHEMA!r}, found {found!r}")
    classes = {name: _link_class(name, row, path) for name, row in data["classes"].items()}
    cost = data["serialisation"]
    serialisation = Serialisation(
        bytes_s=parse_bandwidth(cost["rate"]), fixed_s=parse_seconds(cost["fixed"]), source=str(cost["source"])
    )
    return MappingProxyType(classes), serialisation


def _link_class(name: str, row: dict[str, Any], path: Path) -> LinkClass:
    try:
        efficiency = float(row.get("efficiency", 1.0))
        if not 0 < efficiency <= 1:
            raise ValueError(f"efficiency {efficiency} is not in (0, 1]")
        if not row["source"]:
            raise ValueError("source is empty")
        return LinkClass(
            name=name,
            kind=str(row["kind"]),
            bandwidth_bytes_s=parse_bandwidth(row["bandwidth"]),
            latency_s=parse_seconds(row["latency"]),
            efficiency=efficiency,
            half_duplex={"full": False, "half": True}[row.get("duplex", "full")],
            serialised=bool(row.get("serialised", False)),
            source=str(row["source"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, UnitError) as error:
        raise SettingsError(f"{path}: link class {name!r}: {type(error).__name__}: {error}") from error
