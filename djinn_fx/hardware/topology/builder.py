"""Putting a topology together, node by node and link by link. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.device import Device
from djinn_fx.hardware.topology.links import Link, LinkClass, Serialisation, find_link_class, make_link
from djinn_fx.hardware.topology.nodes import Node
from djinn_fx.hardware.topology.topology import Topology

#: More is a slip of the pen, or meant to do harm: 65,536 accelerators in three dimensions have 400,000 links.
MAX_NODES, MAX_LINKS = 200_000, 500_000


class TopologyBuilder:
    """Collects nodes and links; :meth:`build` checks them.

    Args:
        name: of the topology.
        source: where it comes from.
    """

    def __init__(self, name: str, source: str = "") -> None:
        self.name = name
        self.source = source
        self.nodes: dict[str, Node] = {}
        self.links: list[Link] = []
        #: Names that are taken, and the number that makes the next one of that name.
        self._names: dict[str, int] = {}

    def add(self, node: Node) -> str:
        """Add a node. Returns its name.

        Raises:
            SettingsError: the name is taken, or there are too many nodes.
        """
        if node.name in self.nodes:
            raise SettingsError(f"{self.name}: two nodes are called {node.name!r}")
        if len(self.nodes) >= MAX_NODES:
            raise SettingsError(f"{self.name}: more than {MAX_NODES} nodes; describe a smaller part of it")
        self.nodes[node.name] = node
        return node.name

    def host(self, name: str, device: Device | None = None, serialisation: Serialisation | None = None) -> str:
        """Add a host's memory, where messages are made and tensors wait; ``device``: its processors, if it computes."""
        return self.add(
            Node(name=name, host=name, device=device, forwarding="store-and-forward", serialisation=serialisation)
        )

    def device(self, name: str, device: Device, host: str, forwarding: str = "none") -> str:
        """Add something that computes."""
        return self.add(Node(name=name, host=host, device=device, forwarding=forwarding))

    def switch(self, name: str, host: str = "", forwarding: str = "cut-through") -> str:
        """Add what only passes on: a switch, a PCIe root, a network card."""
        return self.add(Node(name=name, host=host, forwarding=forwarding))

    def connect(
        self,
        one: str,
        other: str,
        cls: str | LinkClass,
        *,
        lanes: int = 1,
        bandwidth_bytes_s: float | None = None,
        back_bytes_s: float | None = None,
        latency_s: float | None = None,
        back_latency_s: float | None = None,
        medium: str | None = None,
        serialised: bool | None = None,
        one_way: bool = False,
    ) -> tuple[Link, ...]:
        """Add a link, both directions unless ``one_way``; ``back_…`` where the way back differs.

        A half-duplex class's two directions share one medium. Returns what was added.

        Raises:
            SettingsError: there are too many links.
        """
        self._check_links()
        found = find_link_class(cls) if isinstance(cls, str) else cls
        there = self._free_name(f"{one}->{other}")
        shared = medium if medium is not None else (there if found.half_duplex else None)
        made = [
            make_link(
                there, one, other, found, lanes=lanes, bandwidth_bytes_s=bandwidth_bytes_s, latency_s=latency_s,
                medium=shared, serialised=serialised,
            )
        ]  # fmt: skip
        if not one_way:
            back = bandwidth_bytes_s if back_bytes_s is None else back_bytes_s
            late = latency_s if back_latency_s is None else back_latency_s
            made.append(
                make_link(
                    self._free_name(f"{other}->{one}"), other, one, found, lanes=lanes, bandwidth_bytes_s=back,
                    latency_s=late, medium=shared, serialised=serialised,
                )
            )  # fmt: skip
        self.links += made
        return tuple(made)

    def _check_links(self) -> None:
        if len(self.links) >= MAX_LINKS:
            raise SettingsError(f"{self.name}: more than {MAX_LINKS} links; describe a smaller part of it")

    def _free_name(self, wanted: str) -> str:
        name = wanted
        while name in self._names:
            number = self._names[wanted]
            name, self._names[wanted] = f"{wanted}#{number}", number + 1
        self._names[name] = 2
        return name

    def include(self, other: Topology, prefix: str) -> None:
        """Add everything of another topology, all names behind ``prefix/``."""
        for node in other.nodes.values():
            self.add(replace(node, name=f"{prefix}/{node.name}", host=node.host and f"{prefix}/{node.host}"))
        for link in other.links:
            self._check_links()
            name = self._free_name(f"{prefix}/{link.name}")
            source, target = f"{prefix}/{link.source}", f"{prefix}/{link.target}"
            medium = f"{prefix}/{link.medium}"
            self.links.append(replace(link, name=name, source=source, target=target, medium=medium))

    def adopt(self, links: Iterable[Link]) -> None:
        """Add links that were made elsewhere, as they are."""
        for link in links:
            self._names.setdefault(link.name, 2)
            self.links.append(link)

    def build(self) -> Topology:
        """The topology.

        Raises:
            SettingsError: as :class:`Topology`.
        """
        return Topology(name=self.name, nodes=self.nodes, links=tuple(self.links), source=self.source)
