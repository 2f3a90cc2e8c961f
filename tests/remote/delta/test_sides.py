"""The two sides one by one: what travels, what is asked for, what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.delta.messages import WHOLE_ONLY, Delta, Full, Needs, Ready, Refuses, Weights, from_frame, to_frame
from djinn_fx.remote.delta.receiver import Receiver
from djinn_fx.remote.delta.sender import Sender
from djinn_fx.remote.wire.frame import decode, joined
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.payload import Payload, payload_of
from tests.remote.delta.drafts import Draft, Value


def model(tokens: int = 4, tuned: int = 0, layers: int = 3, first: int = 0) -> tuple[GraphForm, dict[str, Payload]]:
    """Products of some tokens with one weight after the other, of which the last may be another."""
    made = Draft(inputs=[Value("", [], 0, [tokens, 5])])
    value = made.inputs[0]
    for layer in range(layers):
        weight = Value(
            "", [], 0, [30, 5], weight=2 * layer + first + (100 + 2 * tuned if tuned and layer == layers - 1 else 0)
        )
        made.inputs.append(weight)
        value = Value("aten.mm.default", [value, weight], 0, [tokens, 5])
        made.ops.append(value)
    made.returned = [value]
    return made.finished()


def exchanged(client: Sender, worker: Receiver, messages: Any) -> list[Any]:
    """Everything that is said until nobody says anything more."""
    said = []
    while messages:
        said += messages
        came = [from_frame(decode(joined(to_frame(one)))) for one in messages]
        answers = [answer for one in came for answer in worker.receive(one)]
        said += answers
        messages = [one for answer in answers for one in client.receive(answer)]
    return said


def kinds(said: Any) -> list[type]:
    return [type(one) for one in said]


def pair(**worker: Any) -> tuple[Sender, Receiver]:
    return Sender(1), Receiver(1, **worker)


def test_once_in_full_then_what_changed() -> None:
    client, worker = pair()
    said = exchanged(client, worker, client.update(*model()))
    assert kinds(said) == [Full, Weights, Ready]
    assert len(said[1].payloads) == 3
    said = exchanged(client, worker, client.update(*model(tokens=7)))
    assert kinds(said) == [Delta, Ready]
    said = exchanged(client, worker, client.update(*model(tokens=7, tuned=1)))
    assert kinds(said) == [Delta, Weights, Ready]
    assert len(said[1].payloads) == 1
    said = exchanged(client, worker, client.update(*model()))
    assert kinds(said) == [Delta, Ready]
    assert said[0].edits is None
    assert client.ready
    assert worker.graph == model()[0]
    assert [int(one[0, 0]) for one in worker.weights.values()] == [0, 1, 2]


def test_a_change_is_made_from_the_graph_that_is_most_alike() -> None:
    client, worker = pair()
    for graph in (model(layers=3), model(layers=9), model(tokens=7, layers=3)):
        said = exchanged(client, worker, client.update(*graph))
    assert said[0].base == model(layers=3)[0].digest


def test_an_older_worker_is_sent_everything_each_time() -> None:
    client, worker = pair(protocol=WHOLE_ONLY)
    exchanged(client, worker, client.update(*model()))
    said = exchanged(client, worker, client.update(*model(tuned=1)))
    assert kinds(said) == [Full, Weights, Ready]
    assert len(said[1].payloads) == 3


def test_a_worker_that_restarted_is_sent_everything() -> None:
    client, worker = pair()
    exchanged(client, worker, client.update(*model()))
    said = exchanged(client, Receiver(2), client.update(*model(tokens=7)))
    assert kinds(said) == [Delta, Needs, Full, Weights, Ready]


def test_changes_that_make_another_graph_than_they_say_are_not_taken() -> None:
    client, worker = pair()
    exchanged(client, worker, client.update(*model()))
    (delta,) = client.update(*model(tokens=7))
    assert isinstance(delta, Delta)
    for edits in ({**delta.edits, "outputs": [0]}, {"inputs": {}}):  # type: ignore[dict-item]
        (answer,) = worker.receive(dataclasses.replace(delta, edits=edits))
        assert isinstance(answer, Needs)
        assert answer.graph
    assert worker.graph == model()[0]
    assert kinds(exchanged(client, worker, client.receive(answer))) == [Full, Ready]


def test_a_graph_that_is_not_the_one_it_says_is_an_error_at_the_client() -> None:
    client, worker = pair()
    full, _ = client.update(*model())
    (answer,) = worker.receive(dataclasses.replace(full, digest="0" * 64))
    assert isinstance(answer, Refuses)
    assert worker.graph is None
    with pytest.raises(EngineError, match="another digest"):
        client.receive(answer)


def test_weights_for_which_there_is_no_room_are_an_error_at_the_client() -> None:
    client, worker = pair(weight_bytes=2000)
    with pytest.raises(EngineError, match="2184 bytes; there is room for 2000"):
        exchanged(client, worker, client.update(*model()))


def test_weights_larger_than_they_say_are_not_kept() -> None:
    client, worker = pair(weight_bytes=3000)
    graph, payloads = model()
    content = {**graph.content, "weights": [[number, name, 1] for number, name, _ in graph.content["weights"]]}
    large = payload_of(torch.zeros(2000))
    content["weights"][0][1] = large.digest
    said = worker.receive(client.update(GraphForm(content), {**payloads, large.digest: large})[0])
    said += worker.receive(from_frame(decode(joined(to_frame(Weights(payloads={large.digest: large}))))))
    assert kinds(said) == [Refuses]
    assert worker.resident_bytes <= 3000


def test_a_larger_graph_takes_the_place_of_the_one_in_force() -> None:
    client, worker = pair(weight_bytes=9 * 730)
    exchanged(client, worker, client.update(*model(layers=6)))
    said = exchanged(client, worker, client.update(*model(layers=9)))
    assert kinds(said)[-1] is Ready
    assert len(worker.weights) == 9
    assert worker.resident_bytes <= 9 * 730


def test_a_graph_whose_weights_went_is_in_force_no_more() -> None:
    client, worker = pair(weight_bytes=3 * 730)
    exchanged(client, worker, client.update(*model()))
    other, payloads = model(first=50)
    assert worker.receive(client.update(other, payloads)[0]) == []
    assert worker.graph == model()[0]
    for name in list(payloads)[:2]:
        worker.receive(from_frame(decode(joined(to_frame(Weights(payloads={name: payloads[name]}))))))
        assert worker.graph is None
        assert worker.weights == {}
    said = exchanged(client, worker, client.again())
    assert kinds(said) == [Delta, Needs, Delta, Weights, Ready]
    assert len(said[3].payloads) == 1
    assert worker.graph == other


def test_weights_of_an_older_graph_make_no_newer_one() -> None:
    client, worker = pair(graphs=1)
    exchanged(client, worker, client.update(*model()))
    older, weights = client.update(*model(tuned=1))
    (newer,) = client.update(*model(tokens=9))
    assert worker.receive(older) == []
    (answer,) = worker.receive(newer)
    assert isinstance(answer, Needs)
    assert worker.receive(from_frame(decode(joined(to_frame(weights))))) == []
    assert worker.graph == model()[0]
    assert kinds(exchanged(client, worker, client.receive(answer))) == [Full, Ready]


def test_what_is_kept_is_bounded() -> None:
    client, worker = Sender(1, history=3), Receiver(1, graphs=3, weight_bytes=9000, limits=Limits(text_bytes=10_000))
    for number in range(40):
        exchanged(client, worker, client.update(*model(tokens=number + 1, tuned=number)))
    assert len(client._known) <= 3
    assert len(client._sent) <= 3
    assert len(client._resident | client._under_way) <= 3 * 3
    assert len(worker._held) <= 3
    assert worker.resident_bytes <= 9000
    silent = Sender(1, history=3)
    for number in range(40):
        silent.update(*model(tokens=number + 1, tuned=number))
    assert len(silent._sent) <= 3
    assert len(silent._under_way) <= 5


def test_a_client_whose_stream_another_took_is_told() -> None:
    old, new, worker = Sender(1), Sender(2), Receiver(1)
    exchanged(old, worker, old.update(*model()))
    exchanged(new, worker, new.update(*model(tokens=7)))
    with pytest.raises(EngineError, match="began later"):
        exchanged(old, worker, old.update(*model()))
    assert worker.graph == model(tokens=7)[0]


def test_an_answer_of_an_earlier_life_is_not_believed() -> None:
    client, worker = pair()
    full, weights = client.update(*model())
    assert worker.receive(full) == []
    (late,) = worker.receive(from_frame(decode(joined(to_frame(weights)))))
    (asked,) = Receiver(2).receive(dataclasses.replace(full, follow=()))
    assert kinds(client.receive(asked)) == [Delta, Weights]
    assert client.receive(late) == []
    assert not client.ready


def test_a_weight_that_is_not_given_is_an_error() -> None:
    graph, payloads = model()
    payloads.popitem()
    with pytest.raises(EngineError, match="not given"):
        Sender(1).update(graph, payloads)
