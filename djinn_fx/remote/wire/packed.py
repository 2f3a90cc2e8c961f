"""A payload made smaller by a codec: numpy's header as it is, then its elements in blocks.

A block is the next 256 KiB of the elements (the last one what is left): its length as u32, and so many bytes, which are
the block itself where they are as many. What is compressed is the first byte of each element, then the second of each,
and so on: signs and exponents of numbers are alike, their last digits are not.
"""

from __future__ import annotations

import struct

import numpy as np

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.codecs import Codec, codec_of
from djinn_fx.remote.wire.payload import Payload, sizes_of

BLOCK_BYTES = 256 * 2**10
_LENGTH = struct.Struct("<I")


def packed_by(payload: Payload, name: str) -> Payload:
    """A payload packed by a codec; itself where that is no smaller.

    Args:
        payload: that is not packed.
        name: of a codec that whoever reads it knows.

    Raises:
        EngineError: there is no such codec.
    """
    codec, item = codec_of(name), payload.item_bytes
    blocks: list[bytes | memoryview] = []
    for start in range(0, len(payload.data), BLOCK_BYTES):
        block = payload.data[start : start + BLOCK_BYTES]
        made: bytes | memoryview = compressed(codec, block, item)
        if len(made) >= len(block):
            made = block
        blocks += (_LENGTH.pack(len(made)), made)
    if sum(map(len, blocks)) >= len(payload.data):
        return payload
    data = memoryview(bytearray().join(blocks))
    return Payload(payload.dtype, payload.axes, payload.head, data, codec=name, of=payload)


def unpacked(head: memoryview, data: memoryview, dtype: str, name: str, max_bytes: int) -> memoryview:
    """The elements of a packed payload, in memory of their own.

    Args:
        head: its ``.npy`` header.
        data: what follows it.
        dtype: torch's name of the element type.
        name: of the codec.
        max_bytes: that header and elements may take; whether they do is known before memory is reserved.

    Raises:
        EngineError: no such codec, larger than allowed, or no such payload.
    """
    codec = codec_of(name)
    nbytes, item = sizes_of(head, dtype)
    if len(head) + nbytes > max_bytes:
        raise EngineError(f"it becomes {len(head) + nbytes} bytes; at most {max_bytes} are allowed")
    blocks = -(-nbytes // BLOCK_BYTES)
    if len(data) <= blocks * _LENGTH.size and blocks:
        raise EngineError(f"{len(data)} bytes are no {blocks} blocks")
    made = np.empty(nbytes, dtype=np.uint8)
    place = 0
    for begins in range(0, nbytes, BLOCK_BYTES):
        into = made[begins : begins + BLOCK_BYTES]
        if place + _LENGTH.size > len(data):
            raise EngineError("a packed tensor that was cut short")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if not 0 < length <= min(len(into), len(data) - place):
            raise EngineError(f"a packed tensor with a block of {length} bytes")
        _fill(into, codec, data[place : place + length], item)
        place += length
    if place != len(data):
        raise EngineError(f"a packed tensor with {len(data) - place} bytes after its last block")
    return made.data


def compressed(codec: Codec, block: memoryview, item: int) -> bytes:
    """A block, by a codec, the bytes of its elements of ``item`` bytes apart."""
    if item == 1:
        return codec.compress(block)
    apart = np.ascontiguousarray(np.frombuffer(block, dtype=np.uint8).reshape(-1, item).T)
    return codec.compress(apart.data.cast("B"))


def _fill(into: np.ndarray, codec: Codec, data: memoryview, item: int) -> None:
    """A block of what stands for it.

    Raises:
        EngineError: it stands for none.
    """
    if len(data) == len(into):
        into[:] = np.frombuffer(data, dtype=np.uint8)
        return
    try:
        made = np.frombuffer(codec.decompress(data, len(into)), dtype=np.uint8)
    except Exception as error:
        raise EngineError(f"what {codec.name} was given cannot be unpacked ({str(error)[:120]})") from error
    if len(made) != len(into):
        raise EngineError(f"a block that {codec.name} makes {len(made)} bytes of, not {len(into)}")
    if item == 1:
        into[:] = made
        return
    elements, apart = into.reshape(-1, item), made.reshape(item, -1)
    for byte in range(item):
        elements[:, byte] = apart[byte]


__all__ = ["BLOCK_BYTES", "compressed", "packed_by", "unpacked"]
