"""Routes between the nodes of a topology, and a table of the good ones that follows as nodes leave and join.

A route's time for n bytes is ``latency_s + n * per_byte_s``. Over nodes that cut through, a route streams at the rate
of its slowest link; where a node stores and forwards, everything must have arrived before it goes on, so that the times
of the segments add up. Which route is best depends on the size, so a table keeps every route that no other one beats at
all sizes. Imports no torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from typing_extensions import Self

from djinn_fx.hardware.topology.links import Link
from djinn_fx.hardware.topology.nodes import Node


class Network(Protocol):
    """What routes are looked for in (:class:`djinn_fx.hardware.topology.topology.Topology`)."""

    def node(self, name: str) -> Node:
        """The node of that name."""
        ...

    def links_from(self, name: str) -> Sequence[Link]:
        """The links that begin there."""
        ...

    def links_to(self, name: str) -> Sequence[Link]:
        """The links that end there."""
        ...

    def without(self, name: str) -> Self:
        """The same without a node."""
        ...

    def with_node(self, node: Node, links: Iterable[Link]) -> Self:
        """The same and one more node."""
        ...


AnyNetwork = TypeVar("AnyNetwork", bound=Network)


@dataclass(frozen=True, kw_only=True)
class Route:
    """A way from one node to another.

    Attributes:
        source: where it starts.
        links: in order; empty for a node to itself.
        segments: the links again, cut where a node stores and forwards.
        latency_s: sum over the links.
        settled_s: seconds per byte of the segments that are complete, of the last one not yet.
        open_s: seconds per byte of the last segment: of its slowest link.
        serialised: whether tensors become messages on it.
    """

    source: str
    links: tuple[Link, ...] = ()
    segments: tuple[tuple[Link, ...], ...] = ()
    latency_s: float = 0.0
    settled_s: float = 0.0
    open_s: float = 0.0
    serialised: bool = False

    @property
    def target(self) -> str:
        """Where it ends."""
        return self.links[-1].target if self.links else self.source

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All nodes on it, both ends included."""
        return (self.source, *(link.target for link in self.links))

    @cached_property
    def costs(self) -> tuple[float, float, float, bool]:
        """What tells routes to one node apart, each better if smaller; extending two routes keeps their order."""
        return (self.latency_s, self.settled_s + self.open_s, self.settled_s, self.serialised)

    @cached_property
    def order(self) -> tuple[tuple[float, float, float, bool], int, tuple[str, ...]]:
        """A total order in which a route comes after what it extends; among equals the fewest links, then names."""
        return (self.costs, len(self.links), tuple(link.name for link in self.links))

    def beats(self, other: Route) -> bool:
        """Whether the other one is of no use at any size, here or further on."""
        return self.order < other.order and all(a <= b for a, b in zip(self.costs, other.costs, strict=True))

    def extended(self, link: Link, via: Node) -> Route:
        """This route and one more link; ``via`` is the node between."""
        waits = bool(self.links) and via.forwarding == "store-and-forward"
        per_byte = 1 / link.bandwidth_bytes_s
        if waits or not self.links:
            segments = (*self.segments, (link,))
        else:
            segments = (*self.segments[:-1], (*self.segments[-1], link))
        return replace(
            self,
            links=(*self.links, link),
            segments=segments,
            latency_s=self.latency_s + link.latency_s,
            settled_s=self.settled_s + self.open_s if waits else self.settled_s,
            open_s=per_byte if waits else max(self.open_s, per_byte),
            serialised=self.serialised or link.serialised,
        )

    def time_s(self, nbytes: int) -> float:
        """Seconds for that many bytes with the links to themselves, without serialising."""
        return sum(segment_s(segment, nbytes) for segment in self.segments)


def segment_s(segment: Sequence[Link], nbytes: int) -> float:
    """Seconds over links that cut through: all latencies, and the slowest link's stream."""
    return sum(link.latency_s for link in segment) + max(link.stream_s(nbytes) for link in segment)


class PathTable(Generic[AnyNetwork]):
    """The useful routes from the nodes that were asked about; changes of the topology change only what they touch.

    Attributes:
        topology: as it is now.
        work: routes that were tried so far; what an update costs is the difference.
    """

    def __init__(self, topology: AnyNetwork) -> None:
        self.topology = topology
        self.work = 0
        self._tables: dict[str, dict[str, list[Route]]] = {}

    def routes(self, source: str, target: str) -> tuple[Route, ...]:
        """All routes that some size may want, best latency first; empty if there is no way.

        Raises:
            SettingsError: no such node.
        """
        self.topology.node(source), self.topology.node(target)
        if source not in self._tables:
            self._tables[source] = {}
            self._settle(source, [Route(source=source)])
        return tuple(sorted(self._tables[source].get(target, ()), key=lambda route: route.order))

    def leave(self, name: str) -> None:
        """A node is gone, with its links.

        Raises:
            SettingsError: there is no such node.
        """
        passes_on = self.topology.node(name).forwarding != "none"
        self.topology = self.topology.without(name)
        self._tables.pop(name, None)
        for source, table in self._tables.items():
            table.pop(name, None)
            if passes_on:
                self._mend(source, name)

    def _mend(self, source: str, gone: str) -> None:
        """Drop the routes that went through a node, and look for others from where routes are left."""
        table = self._tables[source]
        lost = [target for target, routes in table.items() if any(gone in route.nodes for route in routes)]
        for target in lost:
            table[target] = [route for route in table[target] if gone not in route.nodes]
        self._settle(
            source, [self._extend(route, link) for target in lost for link, route in self._into(source, target)]
        )

    def join(self, node: Node, links: Iterable[Link]) -> None:
        """A node is there, with its links to nodes that are there already.

        Raises:
            SettingsError: the name is taken, or a link leads nowhere.
        """
        links = tuple(links)
        self.topology = self.topology.with_node(node, links)
        for source, table in self._tables.items():
            starts = [(link, route) for link in links for route in table.get(link.source, ()) if self._passes(route)]
            self._settle(source, [self._extend(route, link) for link, route in starts])

    def _into(self, source: str, target: str) -> list[tuple[Link, Route]]:
        table = self._tables[source]
        return [
            (link, route)
            for link in self.topology.links_to(target)
            for route in table.get(link.source, ())
            if self._passes(route)
        ]

    def _passes(self, route: Route) -> bool:
        """Whether a route may go on from where it ends."""
        return not route.links or self.topology.node(route.target).forwarding != "none"

    def _extend(self, route: Route, link: Link) -> Route:
        self.work += 1
        return route.extended(link, self.topology.node(link.source))

    def _settle(self, source: str, routes: Sequence[Route]) -> None:
        """Enter routes and all that follows from them, best first (Dijkstra's way, with several routes a node)."""
        table = self._tables[source]
        heap = [(route.order, number, route) for number, route in enumerate(routes)]
        heapq.heapify(heap)
        number = len(heap)
        while heap:
            _, _, route = heapq.heappop(heap)
            here = table.setdefault(route.target, [])
            if any(one.order == route.order or one.beats(route) for one in here):
                continue
            for beaten in [one for one in here if route.beats(one)]:
                self._forget(table, beaten)
            table[route.target].append(route)
            if not self._passes(route):
                continue
            for link in self.topology.links_from(route.target):
                longer = self._extend(route, link)
                heapq.heappush(heap, (longer.order, number, longer))
                number += 1

    @staticmethod
    def _forget(table: dict[str, list[Route]], beaten: Route) -> None:
        """Drop a route and those that go on from it: the better one's take their place."""
        length = len(beaten.links)
        for target, routes in table.items():
            if any(one.links[:length] == beaten.links for one in routes):
                table[target] = [one for one in routes if one.links[:length] != beaten.links]
