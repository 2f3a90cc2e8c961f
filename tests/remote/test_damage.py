"""Whatever comes over the wire is a message or one clear error, and leaves both sides able to go on."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.edits import DoesNotFit, applied
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.delta.messages import Delta, Full, Needs, Ready, Refuses, Weights, from_frame, to_frame
from djinn_fx.remote.delta.receiver import Receiver
from djinn_fx.remote.delta.sender import Sender
from djinn_fx.remote.wire.frame import Frame, decode, joined
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.requests import call_of
from djinn_fx.remote.workers.serving import Serving
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild
from djinn_fx.srg.form.replay import replay
from tests.examples import examples
from tests.remote.damage import WAYS, damaged, session, whole

LIMITS = Limits(header_bytes=2**17, header_values=20_000, text_bytes=2**18, payload_bytes=2**22)


class Stub:
    """A graph that is run by nothing."""

    told: Mapping[str, Any] = {}
    writes = ()
    copied_bytes = 0

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        return [torch.zeros(2), torch.zeros(2)]


def serving() -> Serving:
    """A worker that has a graph, its weights and some state."""
    made = Serving(lambda form, about: Stub(), 3, memory_bytes=2**24, limits=LIMITS)
    for kind in ("full", "weights", "prepare", "state"):
        made.take([whole()[kind]])
    return made


def consumed(raw: bytes) -> None:
    """All that either side does with a frame."""
    one = serving()
    for answer in one.take([raw, whole()["delta"], whole()["weights"]]):
        assert isinstance(decode(answer), Frame)
    for answer in one.relay(raw, [raw]):
        assert isinstance(decode(answer), Frame)
    try:
        frame = decode(raw, limits=LIMITS)
        for tensor in frame.tensors.values():
            payload_of(tensor).digest  # noqa: B018 - reads every byte
        if frame.kind == requests.CALL:
            call_of(frame.fields)
        message = from_frame(frame, limits=LIMITS)
    except EngineError:
        return
    _heard(message)


def _heard(message: Any) -> None:
    """By a side that has a graph, and one that has none."""
    full, _, _, payloads = session()
    if isinstance(message, (Ready, Needs, Refuses)):
        client = Sender(1)
        client.update(full.graph, payloads)
        client.update(full.graph, payloads)
        with contextlib.suppress(EngineError):  # it refuses, or serves another client
            for other in client.receive(message):
                to_frame(other)
        return
    for before in ((), (full, Weights(tensors={name: torch.zeros(30, 5) for name in payloads}))):
        worker = Receiver(1, limits=LIMITS)
        for one in (*before, message):
            for answer in worker.receive(one):
                assert isinstance(from_frame(decode(joined(to_frame(answer)))), type(answer))
        if worker.graph is not None:
            assert worker.graph.digest in {one.digest for one in (*before, message) if isinstance(one, (Full, Delta))}
    if isinstance(message, Delta) and message.edits is not None:
        try:
            made = applied(full.graph, message.edits, LIMITS.text_bytes)
        except DoesNotFit:
            return
        assert len(made.text) < LIMITS.text_bytes + 2**16
        _rebuilt(made)
    elif isinstance(message, Full):
        _rebuilt(message.graph)


def _rebuilt(graph: GraphForm) -> None:
    """As a worker does it that compiles the graph."""
    content = graph.content
    hints = [SizeHint(value=4, positive=True)] * len(content["form"]["symbols"])
    for make in (lambda: rebuild(content["form"], hints=hints), lambda: replay(content["form"], {})):
        with contextlib.suppress(CannotRebuild):
            make()


@pytest.mark.parametrize("kind", sorted(whole()))
def test_what_is_whole_is_understood(kind: str) -> None:
    frame = decode(whole()[kind], limits=LIMITS)
    assert frame.kind
    consumed(whole()[kind])
    failed = [decode(one).kind == requests.FAILED for one in serving().take([whole()[kind]])]
    assert any(failed) == (kind in {"values", "zstd", "lz4", "ready", "needs", "refuses"})


@pytest.mark.parametrize("kind", sorted(whole()))
@examples(25)
@given(seed=st.integers(0, 2**32))
def test_what_anybody_makes_of_a_frame_is_a_message_or_an_error(kind: str, seed: int) -> None:
    consumed(damaged(whole()[kind], random.Random(seed)))


@pytest.mark.exam
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", sorted(whole()))
def test_many_damages(kind: str, way: Any) -> None:
    for seed in range(1500):
        consumed(way(whole()[kind], random.Random(seed)))
