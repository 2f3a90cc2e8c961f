"""Frames of every kind, and what anybody may make of them: flipped, cut, lengths that lie, JSON that was not meant."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import torch

from djinn_fx.remote.delta.edits import difference
from djinn_fx.remote.delta.graph import graph_form
from djinn_fx.remote.delta.messages import Delta, Full, Needs, Ready, Refuses, Weights, to_frame
from djinn_fx.remote.wire.codecs import known
from djinn_fx.remote.wire.frame import FRAME_VERSION, PREFIX_BYTES, encode, joined
from djinn_fx.remote.wire.packed import packed_by
from djinn_fx.remote.wire.payload import Payload, payload_of
from djinn_fx.remote.wire.text import text_payload
from djinn_fx.remote.workers import requests
from djinn_fx.remote.workers.requests import Call, Written
from djinn_fx.srg.form.hashing import canonical_form
from djinn_fx.srg.form.rebuild import SizeHint
from tests import capture
from tests.remote.delta.drafts import drawn, edited

#: Values where others are expected.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 63, 64, 65, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308,
    "", "x", "zstd", "lz4", "bfloat16", "float32", "int64", "bool", "cpu", "cuda#0", "%", "list", "\ud800", "0" * 64,
    "x" * 5000, [], {}, [[]], [None], [0], [0, 1], [1, 0], ["%", 0], ["%", -1], ["list"], ["dict", ["a"]], {"a": {}},
    [[0, 2**62]], [0] * 300, {"kind": "call"}, ["graph", {}], ["slice", None, 0, None], [2**40, 2**40],
    [[5, 1], 3, [0, 5]],
)  # fmt: skip


@functools.cache
def session() -> tuple[Full, Delta, Weights, dict[str, Payload]]:
    """A graph, what another one differs by, and the weights of both."""
    rng = random.Random(5)
    draft = drawn(rng, 12)
    graph, weights = draft.finished()
    other, others = edited(edited(draft, rng), rng).finished()
    payloads = {**weights, **others}
    full = Full(session=1, version=1, digest=graph.digest, graph=graph, follow=tuple(weights))
    delta = Delta(
        session=1,
        version=2,
        digest=other.digest,
        base=graph.digest,
        edits=difference(graph, other),
        follow=tuple(others),
    )
    return full, delta, Weights(payloads=payloads), payloads


@functools.cache
def traced() -> Full:
    """A graph of real ops, with symbols, literals of many sorts and a view of its input."""

    def f(x: torch.Tensor, w: torch.Tensor) -> Any:
        hidden = torch.softmax((x[:, 1:] @ w).to(torch.float64), -1).clamp(0, 0.5)
        return hidden.view(-1).sum(), torch.full((x.shape[0] * 2,), 3.5), x.t()

    (srg,) = capture.capture(f, (torch.randn(5, 7), torch.randn(6, 3)), dynamic=True)
    ops = [node for node in srg.nodes if node.op == "call_function"]
    form = canonical_form(ops, srg.inputs, list(srg.output.all_input_nodes))
    hints = [SizeHint(value=5, positive=True)] * len(form["symbols"])
    graph = graph_form(form, {}, hints)
    return Full(session=1, version=2, digest=graph.digest, graph=graph)


@functools.cache
def whole() -> dict[str, bytes]:
    """A frame of each kind."""
    full, delta, weights, _ = session()
    head = {"session": 1, "version": 2, "incarnation": 3, "protocol": 2}
    numbers = torch.arange(3000).remainder(7)
    tensors = {
        "i0": payload_of(torch.arange(24.0).view(2, 3, 4)),
        "i1": payload_of(torch.arange(8).view(2, 4).t().bfloat16()),
        "i2": payload_of(torch.tensor([True, False])),
        "i3": payload_of(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)),
        "i4": payload_of(torch.empty(0, 3)),
    }
    call = Call(
        graph=full.digest, prepared=delta.digest, numbers={5: 4}, state={6: ("kv", 3)}, becomes={6: 4}, gives=(0,),
        passes=(1,), written={6: Written(0, ("i", 7))}, from_others={8: (0, 0)},
    )  # fmt: skip
    made = {
        "values": encode("value", {"a": [1, {"b": None}], "text": "é"}, tensors),
        "call": encode(requests.CALL, call.to_fields(), tensors, digests=False),
        "prepare": encode(requests.PREPARE, {"graph": full.digest, "about": {"engine": "eager"}}),
        "state": encode(requests.STATE, {"versions": {"kv": 3}}, {"kv": tensors["i0"]}),
        "release": encode(requests.RELEASE, {"weights": [full.digest], "states": ["kv"]}),
        "full": to_frame(full),
        "traced": to_frame(traced()),
        "delta": to_frame(delta),
        "weights": to_frame(weights),
        "ready": to_frame(Ready(**head, digest=delta.digest)),
        "needs": to_frame(Needs(**head, graph=False, weights=(full.digest,), why="it has not got them")),
        "refuses": to_frame(Refuses(**head, why="no room")),
    }
    for name in known():
        made[name] = encode("value", {}, {"x": packed_by(payload_of(numbers), name), "y": tensors["i0"]})
    return {kind: joined(pieces).tobytes() for kind, pieces in made.items()}


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payloads of a frame that is whole."""
    size = struct.unpack_from("<I", raw, 12)[0]
    return json.loads(raw[PREFIX_BYTES : PREFIX_BYTES + size]), raw[PREFIX_BYTES + size :]


def sealed(header: bytes, payload: bytes) -> bytes:
    """A frame with a right digest of its header, whatever that is."""
    numbers = struct.pack("<8sIIQ", b"DJINNWR\n", FRAME_VERSION, len(header), len(payload))
    return numbers + hashlib.sha256(numbers + header).digest() + header + payload


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """A frame after somebody had it."""
    (way,) = rng.choices(WAYS, weights=(1, 2, 2, 1, 2))
    return way(raw, rng)


def _bytes(raw: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled or overwritten anywhere."""
    made = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(made) + 1)
        way = rng.randrange(5)
        if way == 0 and place < len(made):
            made[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            del made[place : place + rng.choice((1, 8, 64, len(made)))]
        elif way == 2:
            made[place:place] = made[rng.randrange(len(made) + 1) :][: rng.choice((1, 8, 64))]
        elif way == 3:
            made[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, len(made))))
        else:
            made[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**40, 2**63, 2**64 - 1, len(made))))
    return bytes(made)


def _payload(raw: bytes, rng: random.Random) -> bytes:
    """Payloads damaged, behind a header that says nothing of digests."""
    header, payload = parts(raw)
    for entry in header["tensors"]:
        entry["sha256"] = None
    return sealed(json.dumps(header).encode(), _bytes(payload, rng) if payload else payload)


def _header(raw: bytes, rng: random.Random) -> bytes:
    """A header with values that were not expected."""
    header, payload = parts(raw)
    if rng.random() < 0.7:
        for entry in header["tensors"]:
            entry["sha256"] = None
    for _ in range(rng.choice((1, 1, 3))):
        header = otherwise(header, rng)
    separators = rng.choice(((",", ":"), (", ", ": ")))
    return sealed(json.dumps(header, separators=separators, sort_keys=rng.random() < 0.8).encode(), payload)


def _header_text(raw: bytes, rng: random.Random) -> bytes:
    """A header that is no JSON, or too much of it."""
    _, payload = parts(raw)
    size = struct.unpack_from("<I", raw, 12)[0]
    text = raw[PREFIX_BYTES : PREFIX_BYTES + size]
    deep = rng.choice((10, 990, 5000, 100_000))
    whole_ones: tuple[Callable[[], bytes], ...] = (
        lambda: _bytes(text, rng),
        lambda: text.replace(b"{}", b"[" * deep + b"]" * deep),
        lambda: (
            b'{"fields":'
            + b'{"a":' * deep
            + b"1"
            + b"}" * deep
            + b',"kind":"call","schema":"djinn_fx.frame/1","tensors":[]}'
        ),
        lambda: text.replace(b":1", b":" + b"1" * 5000).replace(b":3", b":NaN"),
        lambda: text.replace(b'"kind"', b'"kind":"a","kind"'),
        lambda: b"\xff\xfe" + text.decode().encode("utf-16-le"),
        lambda: text.replace(b"x", b"\\ud800").replace(b"i0", b"\x00i0"),
        lambda: text + text,
    )
    return sealed(rng.choice(whole_ones)(), payload)


def _text(raw: bytes, rng: random.Random) -> bytes:
    """A graph, or edits, with values that were not expected, named by whatever digest it had."""
    header, payload = parts(raw)
    place = 0
    tensors: dict[str, Payload] = {}
    for entry in header["tensors"]:
        if entry["name"] not in ("graph", "edits"):
            return _header(raw, rng)
        content = json.loads(payload[place + 128 : place + entry["bytes"]])
        for _ in range(rng.choice((1, 1, 2, 5))):
            content = otherwise(content, rng)
        tensors[entry["name"]] = text_payload(json.dumps(content).encode())
        place += entry["bytes"] + -entry["bytes"] % 64
    fields = header["fields"]
    if tensors and rng.random() < 0.5 and isinstance(content, Mapping) and "form" in content:
        from djinn_fx.remote.delta.graph import GraphForm

        fields["digest"] = GraphForm(content).digest
    return joined(encode(header["kind"], fields, tensors)).tobytes()


def otherwise(value: Any, rng: random.Random) -> Any:
    """A JSON value with something in it exchanged, doubled, moved or left out."""
    boxes: list[Any] = []

    def look(one: Any) -> None:
        if isinstance(one, (dict, list)) and one:
            boxes.append(one)
            for inner in one.values() if isinstance(one, dict) else one:
                look(inner)

    value = json.loads(json.dumps(value))
    look(value)
    if not boxes:
        return rng.choice(ODD)
    box = rng.choice(boxes)
    key = rng.choice(list(box)) if isinstance(box, dict) else rng.randrange(len(box))
    way = rng.randrange(6)
    if way == 0:
        del box[key]
    elif way == 1 and isinstance(box, list):
        box.insert(key, box[rng.randrange(len(box))])
    elif way == 2:
        box[key] = rng.choice([other for other in boxes if other is not value] or [None])
        return _unknotted(value)
    elif way == 3 and type(box[key]) is int:
        box[key] += rng.choice((-1, 1, 64, -64))
    elif way == 4 and isinstance(box, dict):
        box[rng.choice(("codec", "a", "%", "weights"))] = rng.choice(ODD)
    else:
        box[key] = rng.choice(ODD)
    return value


def _unknotted(value: Any) -> Any:
    """A JSON value that may hold itself, without that."""
    try:
        return json.loads(json.dumps(value))
    except ValueError:
        return None


WAYS = (_bytes, _payload, _header, _header_text, _text)
