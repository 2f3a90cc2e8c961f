"""Client and worker have equal graphs in the end, whatever was edited, lost, sent twice, overtaken or restarted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from djinn_fx.remote.delta.messages import PROTOCOL, WHOLE_ONLY, Ready, Weights, from_frame, to_frame
from djinn_fx.remote.delta.receiver import Receiver
from djinn_fx.remote.delta.sender import Sender
from djinn_fx.remote.wire.frame import decode, joined
from djinn_fx.remote.wire.payload import payload_of
from tests.remote.delta.drafts import MOST_INPUTS, Draft, drawn, edited

#: Room for the weights of one drafted graph, hardly more.
ROOM = MOST_INPUTS * 730
#: The worker keeps fewer graphs than the client thinks; most messages of an exchange in which nothing is lost.
GRAPHS, HISTORY, ENOUGH = 1, 3, 60


def sent(messages: Sequence[Any]) -> list[bytes]:
    return [joined(to_frame(one)).tobytes() for one in messages]


class Streams(RuleBasedStateMachine):
    """A client, a worker, and a network between them that does as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.there: list[bytes] = []
        self.back: list[bytes] = []
        #: The client's graphs by session and version; and the newest of these that the worker said it has.
        self.asked: dict[tuple[int, int], str] = {}
        self.newest = (0, 0)
        self.life = 0

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.worker = Receiver(0, graphs=GRAPHS, weight_bytes=ROOM)
        self.draft = drawn(self.rng, 6)
        self.new_client()

    def new_client(self) -> None:
        self.life += 1
        self.client, self.session, self.version = Sender(self.life, history=HISTORY), self.life, 0
        self.want(self.draft)

    def want(self, draft: Draft) -> None:
        self.draft = draft
        self.graph, self.payloads = draft.finished()
        self.version += 1
        self.asked[self.session, self.version] = self.graph.digest
        self.there += sent(self.client.update(self.graph, self.payloads))

    @rule(seed=st.integers(0, 2**32))
    def edit(self, seed: int) -> None:
        self.want(edited(self.draft, random.Random(seed)))

    @rule(seed=st.integers(0, 2**32))
    def go_back_to_another(self, seed: int) -> None:
        """As prefill and decode take turns."""
        before = self.draft
        self.want(edited(self.draft, random.Random(seed)))
        self.want(before)

    @rule(seed=st.integers(0, 2**32))
    def edits_in_a_row(self, seed: int) -> None:
        """When all was well, several versions are under way at once."""
        self.everything_arrives_in_the_end()
        for number in range(3):
            self.want(edited(self.draft, random.Random(seed + number)))

    @precondition(lambda self: self.there)
    @rule(place=st.integers(0, 99), twice=st.booleans())
    def arrives(self, place: int, twice: bool) -> None:
        raw = self.there[place % len(self.there)]
        if not twice:
            self.there.remove(raw)
        self.reaches_the_worker(raw)

    def reaches_the_worker(self, raw: bytes) -> None:
        for answer in self.worker.receive(from_frame(decode(raw))):
            if isinstance(answer, Ready):
                about = (answer.session, answer.version)
                assert about >= self.newest
                assert self.worker.graph is not None
                assert answer.digest == self.asked[about] == self.worker.graph.digest
                self.newest = about
            self.back += sent([answer])

    @rule()
    def weights_are_overtaken(self) -> None:
        """What is said of graphs arrives, while weights, which are large, are still on their way."""
        late = [raw for raw in self.there if decode(raw).kind == Weights.kind]
        early, self.there = [raw for raw in self.there if raw not in late], late
        for raw in early:
            self.reaches_the_worker(raw)

    @precondition(lambda self: self.back)
    @rule(place=st.integers(0, 99), twice=st.booleans())
    def is_answered(self, place: int, twice: bool) -> None:
        raw = self.back[place % len(self.back)]
        if not twice:
            self.back.remove(raw)
        self.there += sent(self.client.receive(from_frame(decode(raw))))

    @precondition(lambda self: self.there)
    @rule(place=st.integers(0, 99))
    def is_lost(self, place: int) -> None:
        self.there.pop(place % len(self.there))

    @precondition(lambda self: self.back)
    @rule(place=st.integers(0, 99))
    def an_answer_is_lost(self, place: int) -> None:
        self.back.pop(place % len(self.back))

    @rule()
    def times_out(self) -> None:
        self.there += sent(self.client.again())

    @rule(protocol=st.sampled_from([PROTOCOL, PROTOCOL, WHOLE_ONLY, PROTOCOL + 1]))
    def the_worker_restarts(self, protocol: int) -> None:
        self.life += 1
        self.worker, self.newest = Receiver(self.life, graphs=GRAPHS, weight_bytes=ROOM, protocol=protocol), (0, 0)

    @rule()
    def the_client_restarts(self) -> None:
        self.new_client()

    @rule()
    def everything_arrives_in_the_end(self) -> None:
        for _ in range(6):
            most = len(self.there) * ENOUGH + len(self.back) * ENOUGH
            while self.there or self.back:
                most -= 1
                assert most > 0, "they never stop talking"
                while self.there:
                    self.reaches_the_worker(self.there.pop(0))
                if self.back:
                    self.there += sent(self.client.receive(from_frame(decode(self.back.pop(0)))))
            if self.client.ready and self.worker.graph is not None and self.worker.graph.digest == self.graph.digest:
                break
            self.there += sent(self.client.again())
        assert self.client.ready
        assert self.worker.graph is not None
        assert self.worker.graph.content == self.graph.content
        held = self.worker.weights
        assert {number: payload_of(one).digest for number, one in held.items()} == {
            number: name for number, name, _ in self.graph.content["weights"]
        }

    @invariant()
    def the_worker_has_a_graph_of_the_clients_and_all_its_weights(self) -> None:
        graph = self.worker.graph if self.life else None
        if graph is not None:
            assert graph.digest in self.asked.values()
            bound = {number: name for number, name, _ in graph.content["weights"]}
            assert {number: payload_of(one).digest for number, one in self.worker.weights.items()} == bound
        if self.life:
            assert self.worker.resident_bytes <= ROOM

    def teardown(self) -> None:
        if self.life:
            self.everything_arrives_in_the_end()


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
