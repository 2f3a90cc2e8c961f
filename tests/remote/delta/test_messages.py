"""Messages as frames: what comes back is what was sent, and nothing of anybody's is taken for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError
from djinn_fx.remote.delta.graph import GraphForm, graph_form
from djinn_fx.remote.delta.messages import (
    Delta,
    Full,
    Needs,
    Ready,
    Refuses,
    Weights,
    from_frame,
    grouped,
    to_frame,
)
from djinn_fx.remote.wire.frame import Frame, decode, encode, joined
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.wire.text import text_payload

WEIGHT = payload_of(torch.arange(6.0).view(2, 3))
GRAPH = graph_form(
    {
        "inputs": [[["float32", [2, 3], [3, 1], [0], "cpu"], [0]]],
        "ops": [["aten.relu.default", ["list", ["%", 0]], ["dict"], ["float32", [2, 3], [3, 1], [0], "cpu"]]],
        "outputs": [1],
        "symbols": [],
    },
    {0: WEIGHT},
)
ABOUT: dict[str, Any] = {"session": 3, "version": 7}
FROM: dict[str, Any] = {**ABOUT, "incarnation": 5, "protocol": 2}
MESSAGES = [
    Full(**ABOUT, digest=GRAPH.digest, graph=GRAPH, follow=(WEIGHT.digest,)),
    Delta(**ABOUT, digest=GRAPH.digest, base="0" * 64, edits={"inputs": {"order": []}, "ops": {"order": []}}),
    Delta(**ABOUT, digest=GRAPH.digest, base=GRAPH.digest, edits=None),
    Weights(payloads={WEIGHT.digest: WEIGHT}),
    Ready(**FROM, digest=GRAPH.digest),
    Needs(**FROM, graph=False, weights=(WEIGHT.digest,), why="because"),
    Refuses(**FROM, why="because"),
]


def there(message: Any, **how: Any) -> Any:
    return from_frame(decode(joined(to_frame(message))), **how)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.kind)
def test_a_message_comes_back(message: Any) -> None:
    back = there(message)
    if isinstance(message, Weights):
        ((name, tensor),) = back.tensors.items()
        assert name == WEIGHT.digest
        assert torch.equal(tensor, torch.arange(6.0).view(2, 3))
    else:
        assert back == message


def test_weights_are_taken_with_their_digest_alone() -> None:
    named_wrongly = encode("weights", {}, {"0" * 64: WEIGHT})
    without = encode("weights", {}, {WEIGHT.digest: WEIGHT}, digests=False)
    for pieces in (named_wrongly, without):
        with pytest.raises(EngineError, match="digest"):
            from_frame(decode(joined(pieces)))
    with pytest.raises(EngineError, match="digest"):
        from_frame(decode(joined(encode("weights", {}, {WEIGHT.digest: WEIGHT})), verify=False))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("other", {}),
        ("graph/full", {**ABOUT, "digest": GRAPH.digest, "follow": []}),
        ("graph/full", {**ABOUT, "digest": GRAPH.digest, "follow": [], "graph": True}),
        ("graph/delta", {**ABOUT, "digest": GRAPH.digest, "follow": []}),
        ("ready", {**FROM, "digest": "x"}),
        ("ready", {**FROM, "digest": GRAPH.digest, "more": 1}),
        ("ready", {**FROM, "digest": GRAPH.digest, "version": True}),
        ("needs", {**FROM, "graph": {}, "weights": [], "why": ""}),
        ("needs", {**FROM, "graph": False, "weights": "abc", "why": ""}),
    ],
)
def test_other_fields_are_no_message(kind: str, fields: Any) -> None:
    with pytest.raises(EngineError, match="message"):
        from_frame(decode(joined(encode(kind, fields))))


def test_a_graph_larger_than_allowed_is_not_parsed() -> None:
    with pytest.raises(EngineError, match="are allowed"):
        there(MESSAGES[0], limits=Limits(text_bytes=100))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(st.data())
def test_a_graph_of_anybodys_is_one_or_an_error(data: st.DataObject) -> None:
    import json

    content = json.loads(GRAPH.text)
    where: Any = content
    for _ in range(data.draw(st.integers(0, 4))):
        boxes = [one for one in (where.values() if isinstance(where, dict) else where) if isinstance(one, list | dict)]
        where = data.draw(st.sampled_from([one for one in boxes if one] or [where]))
    where[data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))] = data.draw(JSON)
    fields = {**ABOUT, "digest": GRAPH.digest, "follow": []}
    pieces = encode("graph/full", fields, {"graph": text_payload(json.dumps(content).encode())})
    try:
        message = from_frame(decode(joined(pieces)))
    except EngineError:
        return
    assert isinstance(message, Full)
    assert isinstance(message.graph, GraphForm)
    assert message.graph.weights is not None
    assert len(message.graph.parts.calls) == len(content["form"]["ops"])


def test_large_weights_go_alone() -> None:
    sizes = {"a": 10, "b": 300, "c": 10, "d": 10, "e": 10}
    payloads = {name: payload_of(torch.zeros(size, dtype=torch.uint8)) for name, size in sizes.items()}
    assert [list(group) for group in grouped(payloads, 420)] == [["a"], ["b"], ["c", "d", "e"]]


def test_what_was_not_verified_is_said() -> None:
    frame = Frame(
        kind="ready", fields={**FROM, "digest": GRAPH.digest}, tensors={"x": torch.zeros(1)}, digests={}, readonly=False
    )
    with pytest.raises(EngineError, match="other tensors"):
        from_frame(frame)
