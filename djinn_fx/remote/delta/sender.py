"""The client's side: which message makes the worker have the graph that is wanted now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.edits import difference
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.delta.messages import (
    PROTOCOL,
    WHOLE_ONLY,
    Answer,
    Delta,
    Full,
    Message,
    Needs,
    Ready,
    Refuses,
    Weights,
    grouped,
)
from djinn_fx.remote.wire.payload import Payload
from djinn_fx.srg.form.hashing import as_text

#: Graphs that the worker is known to have, of which changes are counted.
HISTORY = 8
#: Weights that are sent together.
GROUP_BYTES = 2**20


class Sender:
    """One stream of graphs to one worker. Messages in, messages out: who carries them, and when, is another's matter.

    What it believes of the worker may be wrong at any time, since messages are lost and workers restart. Each message
    says what it builds on, by digest; a worker that has not got that says so and is sent the graph in full.

    Args:
        session: higher than that of any client before on this stream, such as ``time.time_ns()``.
        history: how many graphs the worker is known to have are remembered.
        protocol: the newest that this side speaks.
    """

    def __init__(self, session: int, *, history: int = HISTORY, protocol: int = PROTOCOL) -> None:
        self._session, self._history, self._protocol = session, history, protocol
        self._version = 0
        self._graph: GraphForm | None = None
        self._payloads: Mapping[str, Payload] = {}
        #: Sent and not yet answered, by version.
        self._sent: OrderedDict[int, GraphForm] = OrderedDict()
        #: What the worker was heard to have, by digest, the last used one last.
        self._known: OrderedDict[str, GraphForm] = OrderedDict()
        self._resident: set[str] = set()
        self._under_way: set[str] = set()
        self._incarnation, self._speaks = -1, 0
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether the worker was heard to have the newest graph with all its weights."""
        return self._ready

    def update(self, graph: GraphForm, payloads: Mapping[str, Payload]) -> list[Message]:
        """Another graph is wanted.

        Args:
            graph: the one.
            payloads: of all its weights, by digest; kept until the next update.

        Raises:
            EngineError: a weight of the graph is not among them.
        """
        missing = graph.weights.keys() - payloads.keys()
        if missing:
            raise EngineError(f"{len(missing)} of the graph's weights are not given, such as {min(missing)}")
        self._version += 1
        self._graph, self._ready = graph, False
        self._payloads = {name: payloads[name] for name in graph.weights}
        self._sent[self._version] = graph
        while len(self._sent) > self._history:
            self._sent.popitem(last=False)
        self._under_way &= _weights(self._sent.values())
        return self._messages(self._lacking())

    def released(self, names: Iterable[str]) -> None:
        """The worker was told to let go of weights."""
        self._resident.difference_update(names)

    def settled(self) -> None:
        """Let go of the payloads, which keep the caller's weights in memory: whoever is asked for one updates again."""
        self._payloads = {}

    def again(self) -> list[Message]:
        """The newest graph once more, because no answer came; what is missing then the answer will say."""
        if self._graph is None:
            return []
        return self._messages(self._graph.weights if self._speaks == WHOLE_ONLY else ())

    def receive(self, answer: Answer) -> list[Message]:
        """What an answer asks for.

        Raises:
            EngineError: the worker refuses the newest graph, for a reason that sending it again does not mend; or it
            serves a client that began later.
        """
        if answer.session > self._session:
            raise EngineError("the worker serves a client that began later: one stream has one client")
        if answer.session != self._session or answer.incarnation < self._incarnation:
            return []
        if answer.incarnation > self._incarnation:
            self._incarnation, self._speaks = answer.incarnation, min(answer.protocol, self._protocol)
            self._known.clear()
            self._resident.clear()
            self._under_way.clear()
        if isinstance(answer, Ready):
            self._heard(answer)
        elif answer.version == self._version and self._graph is not None:
            if isinstance(answer, Refuses):
                raise EngineError(f"the worker refuses the graph: {answer.why}")
            return self._needed(answer, self._graph)
        return []

    def _heard(self, answer: Ready) -> None:
        """The worker has a version."""
        graph = self._sent.pop(answer.version, None)
        if graph is None and answer.version == self._version:
            graph = self._graph
        if graph is None or graph.digest != answer.digest:
            return
        self._remember(graph)
        self._resident.update(graph.weights)
        self._under_way.difference_update(graph.weights)
        self._ready = self._ready or answer.version == self._version

    def _remember(self, graph: GraphForm) -> None:
        self._known[graph.digest] = graph
        self._known.move_to_end(graph.digest)
        while len(self._known) > self._history:
            self._known.popitem(last=False)
            self._resident &= _weights(self._known.values())  # others it may have dropped

    def _needed(self, answer: Needs, graph: GraphForm) -> list[Message]:
        self._ready = False
        lacking = set(answer.weights)
        self._resident -= lacking
        self._under_way -= lacking
        if answer.graph:
            self._known.clear()
        else:
            self._remember(graph)  # it lacks weights alone
        return self._messages(dict.fromkeys([*(name for name in graph.weights if name in lacking), *self._lacking()]))

    def _lacking(self) -> list[str]:
        """The weights that the worker is not known to have, and that are not on their way."""
        assert self._graph is not None
        if self._speaks == WHOLE_ONLY:
            return list(self._graph.weights)
        return [name for name in self._graph.weights if name not in self._resident and name not in self._under_way]

    def _messages(self, follow: Iterable[str]) -> list[Message]:
        names = tuple(follow)
        self._under_way.update(names)
        groups = grouped({name: self._payloads[name] for name in names}, GROUP_BYTES)
        return [self._about(names), *(Weights(payloads=group) for group in groups)]

    def _about(self, follow: tuple[str, ...]) -> Message:
        """The graph, as what changed since one that the worker has, if that is shorter."""
        assert self._graph is not None
        graph, session, version = self._graph, self._session, self._version
        whole = Full(session=session, version=version, digest=graph.digest, graph=graph, follow=follow)
        if self._speaks < PROTOCOL or not self._known:
            return whole
        if graph.digest in self._known:
            base, edits = graph, None
        else:
            # The one of most nearly as many ops: a decode step is made from a decode step; the latest of those.
            count = len(graph.form["ops"])
            base = min(reversed(self._known.values()), key=lambda one: abs(len(one.form["ops"]) - count))
            edits = difference(base, graph)
        delta = Delta(
            session=session, version=version, digest=graph.digest, base=base.digest, edits=edits, follow=follow
        )
        return whole if edits is not None and len(as_text(edits)) >= len(graph.text) else delta


def _weights(graphs: Iterable[GraphForm]) -> set[str]:
    return {name for graph in graphs for name in graph.weights}


__all__ = ["Sender"]
