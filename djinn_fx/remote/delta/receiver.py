"""The worker's side: which graph it has now, and what it answers to what comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch

from djinn_fx.remote.delta.edits import DoesNotFit, applied
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.delta.messages import (
    PROTOCOL,
    Answer,
    Delta,
    Full,
    Message,
    Needs,
    Ready,
    Refuses,
    Weights,
)
from djinn_fx.remote.delta.resident import ResidentWeights
from djinn_fx.remote.wire.limits import LIMITS, Limits

#: Graphs that are kept, so that what comes next is made from one of them.
GRAPHS = 8
WEIGHT_BYTES = 64 * 2**30


class Receiver:
    """One stream of graphs from one client. Messages in, answers out.

    It has a graph only with all its weights, and goes from one graph that the client sent to a later one: never back,
    and never to a mixture of two.

    Args:
        incarnation: higher than that of any worker before on this stream, such as ``time.time_ns()``.
        graphs: how many are kept.
        weight_bytes: what weights may take.
        limits: a graph's text is no longer than ``text_bytes``, and all that are kept no longer than twice that.
        protocol: the newest that this side knows.
    """

    def __init__(
        self,
        incarnation: int,
        *,
        graphs: int = GRAPHS,
        weight_bytes: int = WEIGHT_BYTES,
        limits: Limits = LIMITS,
        protocol: int = PROTOCOL,
    ) -> None:
        self._incarnation, self._protocol = incarnation, protocol
        self._graphs, self._limits = graphs, limits
        self._held: OrderedDict[str, GraphForm] = OrderedDict()
        self._weights = ResidentWeights(weight_bytes)
        #: Session and version of the newest graph that was spoken of.
        self._newest = (-1, -1)
        #: For which of these the graph in force was sent.
        self._serves = (-1, -1)
        self._graph: GraphForm | None = None
        self._waiting: GraphForm | None = None

    @property
    def graph(self) -> GraphForm | None:
        """The graph that is in force; None before the first, and while a larger one takes its place."""
        return self._graph

    @property
    def weights(self) -> dict[int, torch.Tensor]:
        """What goes into the inputs of the graph in force, by their numbers."""
        bound = self._graph.content["weights"] if self._graph is not None else ()
        return {number: self._weights[name] for number, name, _ in bound}

    def held(self, digest: str) -> GraphForm | None:
        """A graph that is kept, by its digest; it counts as used now."""
        found = self._held.get(digest)
        if found is not None:
            self._held.move_to_end(digest)
        return found

    def bound(self, digest: str) -> dict[int, torch.Tensor] | None:
        """What goes into the inputs of a graph that is kept; None if it is not, or a weight of it is missing."""
        found = self.held(digest)
        if found is None or self._weights.lacking(found.weights):
            return None
        return {number: self._weights[name] for number, name, _ in found.content["weights"]}

    def release(self, names: Iterable[str]) -> None:
        """Let go of weights; a graph that they are of is not in force any more."""
        self._weights.drop(names)
        self._look_whether_whole()

    def room(self, weight_bytes: int) -> None:
        """What weights may take from now on; those that were used least recently go where that is less than before."""
        self._weights.shrink(weight_bytes)
        self._look_whether_whole()

    def _look_whether_whole(self) -> None:
        if self._graph is not None and any(name not in self._weights for name in self._graph.weights):
            self._graph = None

    @property
    def resident_bytes(self) -> int:
        """What weights take."""
        return self._weights.nbytes

    def receive(self, message: Message) -> list[Answer]:
        """Take a message, in whatever order they come and however often."""
        if isinstance(message, Weights):
            return self._take(message)
        this = (message.session, message.version)
        if this < self._newest:
            up_to_date = self._serves == self._newest
            return [self._ready(self._graph)] if up_to_date and self._graph is not None else []
        again, self._newest = this == self._newest, this
        if not again:
            self._waiting = None
        if again and self._graph is not None and self._waiting is None and self._graph.digest == message.digest:
            self._serves = this
            return [self._ready(self._graph)]
        if isinstance(message, Delta) and self._protocol < PROTOCOL:
            return [self._needs("this worker takes whole graphs only")]
        found = self._found(message)
        return [found] if not isinstance(found, GraphForm) else self._wanted(found, message.follow)

    def _found(self, message: Full | Delta) -> GraphForm | Answer:
        """The graph that a message is about, or what is answered instead."""
        if isinstance(message, Full):
            if message.graph.digest != message.digest:
                return self._refuses("its text has another digest than it says")
            return message.graph
        held = self._held.get(message.digest)
        if held is not None:
            return held
        base = self._held.get(message.base)
        if base is None or message.edits is None:
            return self._needs("it is made from a graph that is not here")
        try:
            made = applied(base, message.edits, self._limits.text_bytes)
        except DoesNotFit as error:
            return self._needs(f"the changes do not fit: {error}")
        return made if made.digest == message.digest else self._needs("the changes make another graph than they say")

    def _wanted(self, graph: GraphForm, follow: tuple[str, ...]) -> list[Answer]:
        """Make a graph the one in force, or wait for its weights."""
        weights, most = graph.weights, self._weights.max_bytes
        if len(graph.text) > self._limits.text_bytes:
            return [self._refuses(f"its text has {len(graph.text)} bytes; at most {self._limits.text_bytes} are taken")]
        if sum(weights.values()) > most:
            return [self._refuses(f"its weights take {sum(weights.values())} bytes; there is room for {most}")]
        self._keep(graph)
        missing = self._weights.lacking(weights)
        self._waiting = graph
        if not missing:
            return [self._in_force()]
        coming = set(follow)
        asked = tuple(name for name in missing if name not in coming)
        return [self._needs("it has not got some weights", weights=asked)] if asked else []

    def _take(self, message: Weights) -> list[Answer]:
        """Keep weights; the graph that waits for them may be whole now."""
        wanted = self._waiting or self._graph
        names = wanted.weights if wanted is not None else {}
        left_out = [name for name, tensor in message.tensors.items() if not self._weights.put(name, tensor, names)]
        self._look_whether_whole()
        if any(name in names for name in left_out):
            return [self._refuses(f"its weights are larger than it says: {self._weights.max_bytes} bytes are full")]
        if self._waiting is None or any(name not in self._weights for name in self._waiting.weights):
            return []
        return [self._in_force()]

    def _in_force(self) -> Ready:
        assert self._waiting is not None
        self._graph, self._waiting, self._serves = self._waiting, None, self._newest
        return self._ready(self._graph)

    def _keep(self, graph: GraphForm) -> None:
        self._held[graph.digest] = graph
        self._held.move_to_end(graph.digest)
        while len(self._held) > 1 and (
            len(self._held) > self._graphs
            or sum(len(one.text) for one in self._held.values()) > 2 * self._limits.text_bytes
        ):
            self._held.popitem(last=False)

    # Answers

    def _head(self) -> dict[str, Any]:
        session, version = self._newest
        return {
            "session": session,
            "version": version,
            "incarnation": self._incarnation,
            "protocol": self._protocol,
        }

    def _ready(self, graph: GraphForm) -> Ready:
        return Ready(**self._head(), digest=graph.digest)

    def _needs(self, why: str, weights: tuple[str, ...] = ()) -> Needs:
        return Needs(**self._head(), graph=not weights, weights=weights, why=why)

    def _refuses(self, why: str) -> Refuses:
        return Refuses(**self._head(), why=why)


__all__ = ["Receiver"]
