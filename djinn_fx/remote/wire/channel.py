"""Frames over files and sockets: sizes are known to be allowed before memory is reserved for them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import BinaryIO

import numpy as np

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.frame import PREFIX_BYTES, Frame, read_frame, read_prefix
from djinn_fx.remote.wire.limits import LIMITS, Limits
from djinn_fx.runtime.devices.links import Bucket

#: Pieces shorter than this go together: each one sent by itself is a packet of its own.
_SMALL_BYTES = 16 * 2**10
#: Most bytes asked for at once.
_CHUNK_BYTES = 2**20

_ReadInto = Callable[[memoryview], int | None]


def write(stream: BinaryIO, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a frame to a file in binary mode.

    Raises:
        OSError: it cannot be written.
    """
    for piece in pieces:
        stream.write(piece)


def read(stream: BinaryIO, *, limits: Limits = LIMITS, verify: bool = True) -> Frame | None:
    """The next frame of a file in binary mode, or None at its end; arguments as for ``decode``.

    Raises:
        EngineError: what is there is no whole frame, or larger than allowed.
        OSError: it cannot be read.
    """
    return _next(lambda into: stream.readinto(into), limits, verify)  # type: ignore[attr-defined]


def send(channel: socket.socket, pieces: Iterable[bytes | memoryview], *, link: Bucket | None = None) -> None:
    """Send a frame over a blocking socket.

    Args:
        channel: the socket.
        pieces: of the frame.
        link: a declared one before it: the frame is sent when all of it would have come over that, after what others
            send over the same link.

    Raises:
        OSError: the other side is gone, or the socket's timeout is over.
    """
    if link is not None:
        pieces = list(pieces)
        link.wait(link.book(sum(map(len, pieces))))
    waiting = b""
    for piece in pieces:
        if len(piece) < _SMALL_BYTES:
            waiting += piece
            continue
        if waiting:
            channel.sendall(waiting)
            waiting = b""
        channel.sendall(piece)
    if waiting:
        channel.sendall(waiting)


def receive(channel: socket.socket, *, limits: Limits = LIMITS, verify: bool = True) -> Frame | None:
    """The next frame of a blocking socket, or None where the other side has closed it; arguments as for ``decode``.

    Raises:
        EngineError: what came is no whole frame, or larger than allowed.
        OSError: the socket is broken, or its timeout is over.
    """
    return _next(channel.recv_into, limits, verify)


def _next(read_into: _ReadInto, limits: Limits, verify: bool) -> Frame | None:
    first = bytearray(PREFIX_BYTES)
    got = _fill(read_into, memoryview(first))
    if got == 0:
        return None
    prefix = read_prefix(memoryview(first)[:got], limits)
    header = bytearray(prefix.header_bytes)
    # Not filled with zeros first: pages that nothing is read into are not taken.
    payload = np.empty(prefix.payload_bytes, dtype=np.uint8)
    for part in (memoryview(header), payload.data):
        got = _fill(read_into, part)
        if got < len(part):
            raise EngineError(f"a frame that was cut short: {got} bytes of {len(part)} came")
    return read_frame(prefix, bytes(header), [payload.data], limits=limits, verify=verify)


def _fill(read_into: _ReadInto, into: memoryview) -> int:
    """Read until the memory is full or nothing more comes; how many bytes came."""
    done = 0
    while done < len(into):
        got = read_into(into[done : done + _CHUNK_BYTES])
        if not got:
            break
        done += got
    return done


__all__ = ["read", "receive", "send", "write"]
