"""Messages between the pool and a child: a JSON header and blobs, with their sizes in front. No torch, no pickle.

    magic "DJN1" | header length, u32 big endian | header: UTF-8 JSON object | the blobs, one after the other

The header's ``"blobs"`` holds their sizes. Whatever a child sends is believed only within the reader's bounds.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAGIC = b"DJN1"
#: Largest header either side takes, bytes.
MAX_HEADER_BYTES = 64 * 2**20
#: Most values in a header: what parsing takes in time and memory goes by their number.
MAX_HEADER_VALUES = 8_000_000
#: Most blobs in one message.
MAX_BLOBS = 65536
_PREFIX = struct.Struct(">4sI")
_CHUNK_BYTES = 2**20


class WireError(Exception):
    """What came is not a message, or is larger than allowed."""


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        header: the JSON object, without the sizes of the blobs.
        blobs: the bytes that came with it.
    """

    header: Mapping[str, Any]
    blobs: tuple[bytes, ...] = ()


def encode(header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> list[bytes]:
    """The pieces to send, in order.

    Raises:
        WireError: the header is not JSON, or it or the number of blobs is too large.
    """
    if len(blobs) > MAX_BLOBS:
        raise WireError(f"{len(blobs)} blobs; at most {MAX_BLOBS} go in one message")
    try:
        text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}, allow_nan=True).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error
    if len(text) > MAX_HEADER_BYTES or _values(text) > MAX_HEADER_VALUES:
        raise WireError(f"a header of {len(text)} bytes and {_values(text)} values; that is more than is allowed")
    return [_PREFIX.pack(MAGIC, len(text)) + text, *blobs]


def _values(text: bytes) -> int:
    """At least as many as JSON text has values, counted without parsing it."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


class Reader:
    """Takes one message in pieces of any size.

    Args:
        max_blob_bytes: of all blobs together.
    """

    def __init__(self, max_blob_bytes: int) -> None:
        self._max_blob_bytes = max_blob_bytes
        self._pieces: list[bytes] = []
        self._have = 0
        self._want = _PREFIX.size
        self._header: dict[str, Any] | None = None
        self._sizes: list[int] = []
        self._blobs: list[bytes] = []
        self._in_header = False

    @property
    def started(self) -> bool:
        """Whether anything of the message has come."""
        return self._have > 0 or self._in_header or self._header is not None

    def wanted(self) -> int:
        """How many bytes to read next at most; 0 once the message is whole."""
        return min(self._want - self._have, _CHUNK_BYTES)

    def feed(self, piece: bytes) -> Message | None:
        """Take what was read, at most :meth:`wanted` bytes; the message once it is whole.

        Raises:
            WireError: this is not a message, or it is larger than allowed.
        """
        self._pieces.append(piece)
        self._have += len(piece)
        while self._have == self._want:
            part = b"".join(self._pieces)
            self._pieces, self._have = [], 0
            if self._take(part):
                assert self._header is not None
                self._want = 0
                return Message(self._header, tuple(self._blobs))
        return None

    def _take(self, part: bytes) -> bool:
        """One whole part: the prefix, the header or a blob. True if it was the last."""
        if self._header is not None:
            self._blobs.append(part)
        elif self._in_header:
            self._read_header(part)
        else:
            magic, length = _PREFIX.unpack(part)
            if magic != MAGIC:
                raise WireError("it does not start as a message does")
            if length > MAX_HEADER_BYTES:
                raise WireError(f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
            self._in_header, self._want = True, length
            return False
        if len(self._blobs) == len(self._sizes):
            return True
        self._want = self._sizes[len(self._blobs)]
        return False

    def _read_header(self, text: bytes) -> None:
        if _values(text) > MAX_HEADER_VALUES:
            raise WireError(f"a header of {_values(text)} values; at most {MAX_HEADER_VALUES} are allowed")
        try:
            header = json.loads(text)
            sizes = header.pop("blobs")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise WireError(f"its header cannot be read ({type(error).__name__})") from error
        if not isinstance(sizes, list) or len(sizes) > MAX_BLOBS:
            raise WireError("its header does not say what follows")
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise WireError("its header names a size that is none")
        if sum(sizes) > self._max_blob_bytes:
            raise WireError(f"{sum(sizes)} bytes follow; at most {self._max_blob_bytes} are allowed")
        self._header, self._sizes = header, sizes


def send(channel: socket.socket, pieces: Sequence[bytes]) -> None:
    """Send everything on a blocking socket.

    Raises:
        OSError: the other side is gone.
    """
    for piece in pieces:
        channel.sendall(piece)


def receive(channel: socket.socket, max_blob_bytes: int) -> Message | None:
    """The next message from a blocking socket; None where the other side has closed it.

    Raises:
        OSError: the socket is broken.
        WireError: this is not a message, or it ended in its middle.
    """
    reader = Reader(max_blob_bytes)
    while True:
        piece = channel.recv(reader.wanted())
        if not piece:
            if reader.started:
                raise WireError("it ended in its middle")
            return None
        message = reader.feed(piece)
        if message is not None:
            return message
