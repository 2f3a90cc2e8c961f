"""A frame is read whole and untouched, or refused with one error; nothing large is reserved on its word alone."""

from __future__ import annotations

import io
import itertools
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.frame import FRAME_VERSION, PREFIX_BYTES, decode, encode, joined
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.remote.wire.text import text_in, text_payload
from tests.examples import examples

FIELDS = {"call": 7, "what": "é", "list": [1, None, {"a": 0.5}]}
TENSORS = {
    "x": torch.arange(6.0).view(2, 3),
    "half": torch.arange(5).bfloat16(),
    "empty": torch.empty(0, 2),
    "number": torch.tensor(True),
    "turned": torch.arange(12).view(3, 4).t(),
}


def frame(fields: Any = FIELDS, tensors: Any = TENSORS, **how: Any) -> np.ndarray:
    return joined(encode("call", fields, {name: payload_of(one) for name, one in tensors.items()}, **how))


@pytest.mark.parametrize("digests", [True, False])
def test_a_frame_comes_back(digests: bool) -> None:
    sent = frame(digests=digests)
    found = decode(sent)
    assert (found.kind, found.fields, list(found.tensors)) == ("call", FIELDS, list(TENSORS))
    assert all(torch.equal(found.tensors[name], one) for name, one in TENSORS.items())
    assert found.digests == ({name: payload_of(one).digest for name, one in TENSORS.items()} if digests else {})
    assert not found.readonly
    assert decode(bytes(sent)).readonly


def test_numpy_alone_reads_the_payloads() -> None:
    sent = frame().tobytes()
    _, _, header_bytes, payload_bytes = struct.unpack_from("<8sIIQ", sent)
    header = json.loads(sent[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
    place = PREFIX_BYTES + header_bytes
    assert len(sent) == place + payload_bytes
    for entry in header["tensors"]:
        assert place % 64 == 0
        array = np.load(io.BytesIO(sent[place : place + entry["bytes"]]), allow_pickle=False)
        tensor = TENSORS[entry["name"]]
        own = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
        assert np.array_equal(array, own.numpy())
        place += entry["bytes"] + -entry["bytes"] % 64


def test_reading_and_writing_copy_no_tensor() -> None:
    large = torch.zeros(2**20)
    (head, data) = encode("call", {}, {"x": payload_of(large)}, digests=False)
    assert np.frombuffer(data, dtype=np.uint8).ctypes.data == large.data_ptr()
    sent = joined([head, data])
    found = decode(sent).tensors["x"]
    assert sent.ctypes.data < found.data_ptr() < sent.ctypes.data + len(sent)


@pytest.mark.parametrize("place", range(0, 1800, 37))
def test_a_flipped_bit_is_found(place: int) -> None:
    sent = frame()
    place %= len(sent)
    sent[place] ^= 4
    try:
        found = decode(sent)
    except EngineError:
        return
    # Only what fills a payload up to 64 bytes is not covered, and not read.
    assert all(torch.equal(found.tensors[name], one) for name, one in TENSORS.items())
    assert frame()[place] == 0


def test_every_cut_is_found() -> None:
    sent = frame()
    for length in [*range(0, len(sent), 13), len(sent) - 1]:
        with pytest.raises(EngineError):
            decode(sent[:length])
    with pytest.raises(EngineError, match="of which"):
        decode(np.concatenate([sent, sent]))


def test_another_version_is_told() -> None:
    sent = frame()
    sent[8] = FRAME_VERSION + 1
    with pytest.raises(EngineError, match=rf"version {FRAME_VERSION + 1}.*reads version {FRAME_VERSION}.*both sides"):
        decode(sent)


def test_what_is_no_frame_is_told() -> None:
    with pytest.raises(EngineError, match="no frame of djinn-fx"):
        decode(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 99)


SMALL = Limits(header_bytes=2048, header_values=60, text_bytes=100, tensors=3, payload_bytes=1024)


@pytest.mark.parametrize(
    ("fields", "tensors"),
    [
        ({"a": "x" * 3000}, {}),
        ({"a": [0] * 100}, {}),
        ({}, {str(number): torch.zeros(1) for number in range(4)}),
        ({}, {"x": torch.zeros(2000)}),
    ],
    ids=["header", "values", "tensors", "bytes"],
)
def test_limits_hold_on_both_sides(fields: Any, tensors: Any) -> None:
    with pytest.raises(EngineError, match="are allowed"):
        frame(fields, tensors, limits=SMALL)
    with pytest.raises(EngineError, match="are allowed"):
        decode(frame(fields, tensors), limits=SMALL)


def test_nothing_is_reserved_on_a_frames_word() -> None:
    sent = frame().tobytes()
    lie = bytearray(sent[:PREFIX_BYTES])
    struct.pack_into("<IQ", lie, 12, 2**20, 2**31)
    tracemalloc.start()
    try:
        with pytest.raises(EngineError, match="are there"):
            decode(bytes(lie) + sent[PREFIX_BYTES:])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fields", [{"a": float("nan")}, {"a": {1, 2}}, {"a": object()}])
def test_fields_that_are_not_json_are_not_sent(fields: Any) -> None:
    with pytest.raises(EngineError, match="JSON"):
        encode("call", fields)


def test_a_text_travels_beside_tensors() -> None:
    found = decode(frame({}, {"x": torch.zeros(1)} | {}))
    assert found.tensors["x"].shape == (1,)
    sent = joined(encode("graph", {}, {"form": text_payload(b'{"a":[1,2]}')}))
    assert text_in(decode(sent).tensors["form"], "a form") == {"a": [1, 2]}
    for text in (b"[1]", b"{", b'{"a":NaN}', b"[" * 99, b'{"a":"' + b"x" * 99 + b'"}'):
        with pytest.raises(EngineError, match="a form"):
            text_in(torch.frombuffer(bytearray(text), dtype=torch.uint8), "a form", SMALL)


def resealed(header: bytes, payload: bytes) -> bytes:
    """A frame with a right digest of its header, whatever that is."""
    import hashlib

    numbers = struct.pack("<8sIIQ", b"DJINNWR\n", FRAME_VERSION, len(header), len(payload))
    return numbers + hashlib.sha256(numbers + header).digest() + header + payload


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@examples(100)
@given(st.lists(st.dictionaries(st.sampled_from(["kind", "a"]), JSON, max_size=3), max_size=3), st.text(max_size=9))
def test_fields_may_look_like_the_rest_of_a_header(fields: list[Any], name: str) -> None:
    """What follows the fields is found and remembered; nothing within them passes for it."""
    sent = {"kind": "x", "all": fields, name: ',"kind":"y","schema":"z","tensors":[]}'}
    if "NaN" in json.dumps(sent) or "Infinity" in json.dumps(sent):
        return
    for _ in range(2):
        found = decode(frame(sent, {"x": torch.ones(2), ',"kind":': torch.zeros(1)}))
        assert (found.kind, found.fields) == ("call", sent)
        assert list(found.tensors) == ["x", ',"kind":']
    other = decode(frame({"again": 1}, {"x": torch.ones(2), ',"kind":': torch.zeros(1)}))
    assert other.fields == {"again": 1}


@pytest.mark.parametrize("order", list(itertools.permutations(["fields", "kind", "schema", "tensors"])))
def test_a_header_may_be_in_any_order(order: tuple[str, ...]) -> None:
    sent = frame({"a": {"kind": 1}}).tobytes()
    size = struct.unpack_from("<I", sent, 12)[0]
    content = json.loads(sent[PREFIX_BYTES : PREFIX_BYTES + size])
    for separators in ((",", ":"), (", ", ": ")):
        text = json.dumps({name: content[name] for name in order}, separators=separators).encode()
        found = decode(resealed(text, sent[PREFIX_BYTES + size :]))
        assert (found.kind, found.fields, list(found.tensors)) == ("call", {"a": {"kind": 1}}, list(TENSORS))


@examples(100)
@given(st.data())
def test_a_header_of_anybodys_is_a_frame_or_an_error(data: st.DataObject) -> None:
    sent = frame().tobytes()
    size = struct.unpack_from("<I", sent, 12)[0]
    content: Any = json.loads(sent[PREFIX_BYTES : PREFIX_BYTES + size])
    where = content
    for _ in range(data.draw(st.integers(0, 3))):
        inner = where.values() if isinstance(where, dict) else where
        boxes = [one for one in inner if isinstance(one, (dict, list)) and one]
        where = data.draw(st.sampled_from(boxes)) if boxes else where
    key = data.draw(st.sampled_from(list(where) if isinstance(where, dict) else range(len(where))))
    if data.draw(st.booleans()):
        where[key] = data.draw(JSON)
    else:
        del where[key]
    try:
        found = decode(resealed(json.dumps(content).encode(), sent[PREFIX_BYTES + size :]))
    except EngineError:
        return
    assert set(found.tensors) <= {str(entry["name"]) for entry in content["tensors"]}


@examples(100)
@given(st.binary(max_size=300), st.binary(max_size=200))
def test_bytes_of_anybodys_are_an_error(header: bytes, payload: bytes) -> None:
    with pytest.raises(EngineError):
        decode(header + payload)
    with pytest.raises(EngineError):
        decode(resealed(header, payload))
