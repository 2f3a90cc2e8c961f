"""Hosts, devices and switches, the links between them, and what a transfer costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.links import DATASHEET, MEASURED, MIXED, Link, Serialisation, default_serialisation
from djinn_fx.hardware.topology.nodes import Node
from djinn_fx.hardware.topology.routes import PathTable, Route


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """What moving some bytes from one node to another takes.

    Attributes:
        nbytes: how many.
        time_s: seconds expected.
        low_s: lower end of the 80 % interval.
        high_s: its upper end.
        provenance: ``datasheet``, ``measured`` or ``mixed``.
        serialise_s: part of ``time_s`` that goes into making a message and reading it.
        route: the way it goes.
    """

    nbytes: int
    time_s: float
    low_s: float
    high_s: float
    provenance: str
    serialise_s: float
    route: Route

    @property
    def bottleneck(self) -> Link | None:
        """The link that takes longest; None if there is none."""
        return max(self.route.links, key=lambda link: link.stream_s(self.nbytes), default=None)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Nodes and the links between them. Checked when made.

    Attributes:
        name: for reports.
        nodes: by name.
        links: each one direction.
        source: where it comes from.

    Raises:
        SettingsError: a link that leads nowhere or to itself, or two of one name.
    """

    name: str
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]
    source: str = ""
    _adjacent: Mapping[str, tuple[tuple[Link, ...], tuple[Link, ...]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        out: dict[str, list[Link]] = {name: [] for name in self.nodes}
        into: dict[str, list[Link]] = {name: [] for name in self.nodes}
        names = set()
        for link in self.links:
            for end in (link.source, link.target):
                if end not in self.nodes:
                    raise SettingsError(f"link {link.name!r} leads to {end!r}, {unknown(end, self.nodes)}")
            if link.source == link.target or link.name in names:
                why = "leads from a node to itself" if link.source == link.target else "is there twice"
                raise SettingsError(f"link {link.name!r} {why}")
            names.add(link.name)
            out[link.source].append(link)
            into[link.target].append(link)
        adjacent = {name: (tuple(out[name]), tuple(into[name])) for name in self.nodes}
        object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))
        object.__setattr__(self, "_adjacent", MappingProxyType(adjacent))

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            SettingsError: there is none; the message names the nearest.
        """
        if name not in self.nodes:
            raise SettingsError(f"{self.name}: {name!r}, {unknown(name, self.nodes)}")
        return self.nodes[name]

    @property
    def devices(self) -> Mapping[str, Device]:
        """Everything that computes, by node name."""
        return {name: node.device for name, node in self.nodes.items() if node.device is not None}

    def links_from(self, name: str) -> tuple[Link, ...]:
        """Links on which a node sends."""
        return self._adjacent[name][0]

    def links_to(self, name: str) -> tuple[Link, ...]:
        """Links on which a node receives."""
        return self._adjacent[name][1]

    @cached_property
    def paths(self) -> PathTable[Topology]:
        """The routes of this topology, found when first asked for. For churn make a table of your own."""
        return PathTable(self)

    def without(self, name: str) -> Topology:
        """The same less a node and its links.

        Raises:
            SettingsError: there is no such node.
        """
        self.node(name)
        return Topology(
            name=self.name,
            nodes={key: node for key, node in self.nodes.items() if key != name},
            links=tuple(link for link in self.links if name not in (link.source, link.target)),
            source=self.source,
        )

    def with_node(self, node: Node, links: Iterable[Link]) -> Topology:
        """The same and one more node, with its links.

        Raises:
            SettingsError: the name is taken, or a link leads nowhere or is not the node's.
        """
        links = tuple(links)
        if node.name in self.nodes:
            raise SettingsError(f"{self.name} has a node {node.name!r} already")
        for link in links:
            if node.name not in (link.source, link.target):
                raise SettingsError(f"link {link.name!r} is none of the new node {node.name!r}")
        nodes = {**self.nodes, node.name: node}
        return Topology(name=self.name, nodes=nodes, links=(*self.links, *links), source=self.source)

    def transfer(self, source: str, target: str, nbytes: int) -> Transfer:
        """What moving bytes takes with the links to themselves, on the way that is fastest for this size.

        Raises:
            SettingsError: no such node, or no way between them.
            ValueError: a negative size.
        """
        return cheapest(self.paths, source, target, nbytes)


def cheapest(paths: PathTable[Topology], source: str, target: str, nbytes: int) -> Transfer:
    """As :meth:`Topology.transfer`, by a table that follows churn."""
    if nbytes < 0:
        raise ValueError(f"a transfer of {nbytes} bytes")
    routes = paths.routes(source, target)
    if not routes:
        raise SettingsError(
            f"{paths.topology.name}: no way from {source!r} to {target!r}: a link is missing, or leads through a "
            "device that passes nothing on"
        )
    return min((_transfer(paths.topology, route, nbytes) for route in routes), key=lambda one: one.time_s)


def _transfer(topology: Topology, route: Route, nbytes: int) -> Transfer:
    serialise_s = sum(cost.time_s(nbytes) for cost in serialisations(topology, route))
    moved_s = route.time_s(nbytes)
    low = min((link.interval[0] for link in route.links), default=1.0)
    high = max((link.interval[1] for link in route.links), default=1.0)
    origins = {link.provenance for link in route.links} or {MEASURED}
    provenance = MEASURED if origins == {MEASURED} else DATASHEET if origins == {DATASHEET} else MIXED
    return Transfer(
        nbytes=nbytes,
        time_s=moved_s + serialise_s,
        low_s=moved_s * low + serialise_s * min(low, 1.0),
        high_s=moved_s * high + serialise_s * max(high, 1.0),
        provenance=provenance,
        serialise_s=serialise_s,
        route=route,
    )


def serialisations(topology: Topology, route: Route) -> tuple[Serialisation, ...]:
    """What both ends pay for a message, if the route carries messages."""
    if not route.serialised:
        return ()
    return tuple(_serialisation(topology, end) for end in (route.source, route.target))


def _serialisation(topology: Topology, name: str) -> Serialisation:
    node = topology.nodes[name]
    host = topology.nodes.get(node.host)
    own = node.serialisation or (host.serialisation if host is not None else None)
    return own or default_serialisation()


def missing_way(topology: Topology) -> tuple[str, str] | None:
    """Two devices of which the first cannot reach the second; None if each reaches every other."""
    beyond: dict[str, frozenset[str]] = {}
    devices = frozenset(topology.devices)
    for source in topology.devices:
        reached = {source}
        for link in topology.links_from(source):
            reached.add(link.target)
            if topology.nodes[link.target].forwarding != "none":
                if link.target not in beyond:
                    beyond[link.target] = _beyond(topology, link.target)
                reached |= beyond[link.target]
        lost = devices - reached
        if lost:
            return source, min(lost)
    return None


def _beyond(topology: Topology, start: str) -> frozenset[str]:
    """Everything that is reached from a node through nodes that pass on."""
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for link in topology.links_from(here):
            if link.target not in seen:
                seen.add(link.target)
                if topology.nodes[link.target].forwarding != "none":
                    waiting.append(link.target)
    return frozenset(seen)


def unknown(name: str, known: Iterable[str]) -> str:
    """Words for a name that is not there, and the nearest that is."""
    names = list(known)
    few = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    known_ones = f"; there are: {few or 'none'}"
    return f"which is not there{did_you_mean(name, names, known_ones, cutoff=0.4)}"
