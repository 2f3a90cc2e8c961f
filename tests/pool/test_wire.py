"""Messages arrive whole in pieces of any size, and what is none is told so, never believed."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from djinn_fx.pool import wire
from djinn_fx.pool.wire import MAGIC, Message, Reader, WireError, encode, receive, send

MESSAGES = [
    Message({}),
    Message({"a": [1, None, "é"]}, (b"",)),
    Message({"token": "x"}, (b"one", b"", bytes(5000), b"")),
]


def read(data: bytes, chosen: random.Random, bound: int = 10**6) -> Message | None:
    """What a reader makes of it, fed in random pieces; None while it wants more."""
    reader = Reader(bound)
    while data:
        size = min(chosen.randint(1, 700), reader.wanted())
        message = reader.feed(data[:size])
        data = data[size:]
        if message is not None:
            assert not data, "the reader left something over"
            return message
    return None


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_arrives_as_it_was(message: Message) -> None:
    data = b"".join(encode(message.header, message.blobs))
    for seed in range(20):
        assert read(data, random.Random(seed)) == message


def test_what_is_cut_short_is_never_a_message() -> None:
    data = b"".join(encode({"a": 1}, [b"xyz"]))
    for length in range(len(data)):
        assert read(data[:length], random.Random(length)) is None


def test_a_changed_byte_never_escapes_as_another_error() -> None:
    data = b"".join(encode({"token": "t", "list": [1, 2]}, [b"xyz"]))
    refused = 0
    for position in range(len(data)):
        for value in (0, 34, 93, 255):
            try:
                read(data[:position] + bytes([value]) + data[position + 1 :], random.Random(1))
            except (WireError, AssertionError):
                refused += 1
    assert refused > len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense and more",
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + b"\x00\x00\x00\x02[]",
        MAGIC + b"\x00\x00\x00\x02{}",
        MAGIC + b"\x00\x00\x00\x00",
        MAGIC + b"\x00\x00\x00\x0d" + b'{"blobs":[1.]',
        MAGIC + b"\x00\x00\x00\x0e" + b'{"blobs":[-1]}',
        MAGIC + b"\x00\x00\x00\x10" + b'{"blobs":[true]}',
        MAGIC + b"\x00\x00\x00\x0b" + b'{"blobs":1}',
        MAGIC + b"\x00\x00\x00\x13" + b'{"blobs":[9000000]}',
        MAGIC + b"\x00\x00\x27\x10" + b"[" * 10000,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read(data, random.Random(0))


def test_the_sizes_of_all_blobs_together_are_bounded() -> None:
    data = b"".join(encode({}, [bytes(600), bytes(600)]))
    assert read(data, random.Random(0), bound=1200) is not None
    with pytest.raises(WireError):
        read(data, random.Random(0), bound=1199)


def test_what_cannot_be_sent_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for header in ({"a": object()}, {"a": b"bytes"}, {("a",): 1}):
        with pytest.raises(WireError):
            encode(header)  # type: ignore[arg-type]
    monkeypatch.setattr(wire, "MAX_BLOBS", 1)
    with pytest.raises(WireError):
        encode({}, [b"", b""])
    monkeypatch.setattr(wire, "MAX_HEADER_BYTES", 10)
    with pytest.raises(WireError):
        encode({"a": "0123456789"})


def test_the_values_of_a_header_are_counted_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(encode({"a": [[], [], []]}))
    monkeypatch.setattr(wire, "MAX_HEADER_VALUES", 5)
    with pytest.raises(WireError):
        read(data, random.Random(0))
    with pytest.raises(WireError):
        encode({"a": [[], [], []]})


def test_over_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(
            target=lambda: [send(ours, encode(m.header, m.blobs)) for m in MESSAGES] and ours.close()
        )
        sender.start()
        assert [receive(theirs, 10**6) for _ in MESSAGES] == MESSAGES
        sender.join()
        assert receive(theirs, 10**6) is None


def test_an_end_in_the_middle_is_not_an_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"".join(encode({}, [b"abc"]))[:-1])
        ours.close()
        with pytest.raises(WireError):
            receive(theirs, 10**6)
