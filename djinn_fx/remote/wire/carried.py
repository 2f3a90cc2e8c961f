"""A frame as Ray is given it: bytes where it is small, else arrays of bytes, the large ones over the tensors' memory.

Ray writes bytes into a call as they are, and an array by pickle, which takes longer than everything that a small frame
is made and read by. Arrays it passes out of band: memory that lies apart is copied once, into the object store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from djinn_fx.remote.wire.frame import joined

#: Frames up to that are bytes, and so many of a frame lie apart. Ray has objects up to 100 KB in the call itself.
SMALL_BYTES = 2**16

Carried = bytes | np.ndarray | list[np.ndarray]


def carried(pieces: Sequence[bytes | memoryview]) -> Carried:
    """A frame that is sent before the memory of its tensors is written again."""
    if sum(map(len, pieces)) <= SMALL_BYTES:
        return b"".join(pieces)
    found: list[np.ndarray] = []
    small: list[bytes | memoryview] = []
    for piece in pieces:
        if len(piece) <= SMALL_BYTES:
            small.append(piece)
            continue
        if small:
            found.append(np.frombuffer(b"".join(small), dtype=np.uint8))
            small = []
        found.append(np.frombuffer(piece, dtype=np.uint8))
    if small:
        found.append(np.frombuffer(b"".join(small), dtype=np.uint8))
    return found


def kept(pieces: Sequence[bytes | memoryview]) -> Carried:
    """A frame in memory of its own: what is in it may be written before it is sent."""
    return b"".join(pieces) if sum(map(len, pieces)) <= SMALL_BYTES else joined(list(pieces))


def size_of(frame: Carried) -> int:
    """Its bytes."""
    return sum(map(len, frame)) if isinstance(frame, list) else len(frame)


def begin_of(frame: Carried) -> memoryview:
    """What it begins with, its header at least."""
    first: Any = frame if not isinstance(frame, list) else frame[0] if frame else b""
    return memoryview(first).cast("B")


__all__ = ["SMALL_BYTES", "Carried", "begin_of", "carried", "kept", "size_of"]
