"""A message: a small JSON header, and tensors as the bytes of ``.npy`` files, each of which numpy alone can read.

    magic (8 bytes) | version u32 | header bytes u32 | payload bytes u64
    sha256 of all that and of the header (32 bytes)
    header, JSON in UTF-8, filled up with spaces to a multiple of 64 bytes
    the payloads, each filled up with zeros to a multiple of 64 bytes

Numbers are little-endian. The header is ``{"schema", "kind", "fields", "tensors"}``; each entry of ``tensors`` has a
name, the length of its ``.npy`` bytes, its element type by torch's name, the order of its dimensions where numpy has no
word for it, and its digest, or null from a sender that leaves this to the carrier; and, where its elements are packed
(:mod:`djinn_fx.remote.wire.packed`), the codec.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.header import Entry, header_text, read_header
from djinn_fx.remote.wire.limits import LIMITS, Limits
from djinn_fx.remote.wire.packed import unpacked
from djinn_fx.remote.wire.payload import ALIGNMENT, Payload, digest_of, parted, tensor_of

MAGIC = b"DJINNWR\n"
#: Raised with every change of what a frame looks like.
FRAME_VERSION = 1
SCHEMA = f"djinn_fx.frame/{FRAME_VERSION}"

_NUMBERS = struct.Struct("<8sIIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size
#: Arrays from here on are given large pages by numpy.
_LARGE_BYTES = 4 * 2**20
PREFIX_BYTES = _NUMBERS.size + _DIGEST_BYTES


class Frame(NamedTuple):
    """A message that came.

    Attributes:
        kind: what it is about.
        fields: a JSON object.
        tensors: by name, over the memory the frame was read from.
        digests: by name, of those that were sent with one and were found right.
        readonly: that memory must not be written: whoever writes into a tensor copies it first.
        packed: bytes of the tensors that came packed, as they are and as they came.
    """

    kind: str
    fields: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    digests: Mapping[str, str]
    readonly: bool
    packed: tuple[int, int] = (0, 0)


class Prefix(NamedTuple):
    """The sizes that a frame begins with, within the reader's limits.

    Attributes:
        numbers: as they stand there.
        header_bytes: of the header.
        payload_bytes: of all payloads.
        digest: of numbers and header.
    """

    numbers: bytes
    header_bytes: int
    payload_bytes: int
    digest: bytes


def encode(
    kind: str,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Payload] | None = None,
    *,
    digests: bool = True,
    limits: Limits = LIMITS,
) -> list[bytes | memoryview]:
    """The pieces of a frame, to be sent one after the other; tensors are passed through and not copied.

    Args:
        kind: what it is about.
        fields: any JSON object.
        tensors: by name.
        digests: send a digest of each tensor (a second a gigabyte on each side); without them a bit that flips on the
            way is not noticed.
        limits: of whoever will read it.

    Raises:
        EngineError: the fields are not JSON, or the frame is larger than the limits allow.
    """
    entries: list[Entry] = []
    pieces: list[bytes | memoryview] = []
    total, small = 0, b""
    for name, payload in (tensors or {}).items():
        size = payload.nbytes
        digest = payload.digest if digests else None
        entries.append(Entry(name, size, payload.dtype, payload.axes, digest, payload.codec))
        pieces += (small + payload.head, payload.data)
        small = bytes(-size % ALIGNMENT)
        total += size + len(small)
    pieces.append(small)
    header = header_text(SCHEMA, kind, fields, entries, limits)
    header += b" " * (-(PREFIX_BYTES + len(header)) % ALIGNMENT)
    _check_sizes(len(header), total, limits)
    numbers = _NUMBERS.pack(MAGIC, FRAME_VERSION, len(header), total)
    pieces[0] = b"".join((numbers, hashlib.sha256(numbers + header).digest(), header, pieces[0]))
    return [piece for piece in pieces if piece]


def joined(pieces: list[bytes | memoryview]) -> np.ndarray:
    """A frame in one array of bytes, which object stores pass on without copying it again."""
    size = sum(map(len, pieces))
    if size < _LARGE_BYTES:
        return np.frombuffer(bytearray().join(pieces), dtype=np.uint8)
    made = np.empty(size, dtype=np.uint8)  # in large pages: half of the time is that of getting the memory
    place = 0
    for piece in pieces:
        made[place : place + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        place += len(piece)
    return made


def decode(buffer: Any, *, limits: Limits = LIMITS, verify: bool = True) -> Frame:
    """The frame in a buffer, which must hold it and nothing else; its tensors lie in the buffer's memory.

    Args:
        buffer: bytes, an array of bytes, or anything else contiguous with memory; or a list of such, in which a frame
            lies apart as :func:`djinn_fx.remote.wire.carried.carried` has it.
        limits: what is taken at most.
        verify: hold each tensor that came with a digest against it.

    Raises:
        EngineError: it is no frame, of another version, damaged, cut short, too long, or larger than allowed.
    """
    pieces = [_bytes_of(one) for one in buffer or (b"",)] if type(buffer) is list else [_bytes_of(buffer)]
    first = pieces[0]
    prefix = read_prefix(first[:PREFIX_BYTES], limits)
    begins = PREFIX_BYTES + prefix.header_bytes
    there = sum(map(len, pieces))
    if there != begins + prefix.payload_bytes or len(first) < begins:
        raise EngineError(f"a frame of {begins + prefix.payload_bytes} bytes of which {there} are there")
    pieces[0] = first[begins:]
    return read_frame(prefix, first[PREFIX_BYTES:begins], pieces, limits=limits, verify=verify)


def _bytes_of(buffer: Any) -> memoryview:
    raw = memoryview(buffer)
    return raw if raw.ndim == 1 and raw.format == "B" else raw.cast("B")


def read_prefix(raw: bytes | memoryview, limits: Limits = LIMITS) -> Prefix:
    """The sizes in a frame's first bytes.

    Raises:
        EngineError: they are no frame's, of another version, or larger than allowed.
    """
    if len(raw) < PREFIX_BYTES:
        raise EngineError(f"a frame that was cut short: {len(raw)} bytes of its first {PREFIX_BYTES} are there")
    magic, version, header_bytes, payload_bytes = _NUMBERS.unpack_from(raw)
    if magic != MAGIC:
        raise EngineError(f"what came is no frame of djinn-fx: it begins with {magic!r}")
    if version != FRAME_VERSION:
        raise EngineError(
            f"a frame of version {version}; this side reads version {FRAME_VERSION}: "
            "install the same version of djinn-fx on both sides"
        )
    _check_sizes(header_bytes, payload_bytes, limits)
    return Prefix(bytes(raw[: _NUMBERS.size]), header_bytes, payload_bytes, bytes(raw[_NUMBERS.size : PREFIX_BYTES]))


def read_frame(
    prefix: Prefix,
    header: bytes | memoryview,
    payload: Sequence[memoryview],
    *,
    limits: Limits = LIMITS,
    verify: bool = True,
) -> Frame:
    """A frame whose three parts were read, the last one in as many buffers as it lies in; the rest as :func:`decode`.

    Raises:
        EngineError: it is damaged, or not what a frame looks like.
    """
    header = bytes(header)
    if hashlib.sha256(prefix.numbers + header).digest() != prefix.digest:
        raise EngineError("a damaged frame: its header has another digest than it says")
    kind, fields, entries = read_header(header, SCHEMA, limits)
    tensors: dict[str, torch.Tensor] = {}
    digests: dict[str, str] = {}
    unpacked_bytes = packed_bytes = 0
    for entry, head, data in _parts(entries, payload):
        name, told = entry.name, entry.sha256
        if name in tensors:
            raise EngineError(f"a frame with two tensors {name[:80]!r}")
        try:
            if entry.codec is not None:
                data = unpacked(head, data, entry.dtype, entry.codec, limits.payload_bytes - unpacked_bytes)
                unpacked_bytes += len(head) + len(data)
                packed_bytes += entry.nbytes
            if told is not None and verify:
                if digest_of(entry.dtype, entry.axes, head, data) != told:
                    raise EngineError("damaged: it has another digest than it says")
                digests[name] = told
            tensors[name] = tensor_of(head, data, entry.dtype, entry.axes)
        except EngineError as error:
            raise EngineError(f"a frame's tensor {name[:80]!r}: {error}") from error
    readonly = any(one.readonly for one in payload)
    return Frame(kind, fields, tensors, digests, readonly, (unpacked_bytes, packed_bytes))


def _check_sizes(header_bytes: int, payload_bytes: int, limits: Limits) -> None:
    if header_bytes > limits.header_bytes:
        raise EngineError(f"a frame's header of {header_bytes} bytes; at most {limits.header_bytes} are allowed")
    if payload_bytes > limits.payload_bytes:
        raise EngineError(f"a frame with {payload_bytes} bytes of tensors; at most {limits.payload_bytes} are allowed")


def _parts(entries: Sequence[Entry], payload: Sequence[memoryview]) -> Iterator[tuple[Entry, memoryview, memoryview]]:
    """Each entry of the header with its ``.npy`` header and what follows that.

    Raises:
        EngineError: the lengths do not make up the payload, or it is cut elsewhere than before what follows a header.
    """
    buffers, raw = iter(payload), memoryview(b"")
    for entry in entries:
        raw = raw if len(raw) else next(buffers, raw)
        size = entry.nbytes
        if size <= len(raw):
            yield (entry, *parted(raw[:size]))
            raw = raw[size:]
        else:
            head, rest = parted(raw)
            raw, left = next(buffers, raw[:0]), size - len(head)
            if len(rest) or left > len(raw):
                raise EngineError(f"a frame's tensor of {size} bytes where {len(head) + len(rest) + len(raw)} are left")
            yield entry, head, raw[:left]
            raw = raw[left:]
        if filled := -size % ALIGNMENT:
            raw = raw if len(raw) else next(buffers, raw)
            if filled > len(raw):
                raise EngineError(f"a frame's tensor of {size} bytes that is not filled up to {ALIGNMENT}")
            raw = raw[filled:]
    if over := len(raw) + sum(map(len, buffers)):
        raise EngineError(f"a frame with {over} bytes after its tensors")


__all__ = ["FRAME_VERSION", "Frame", "Prefix", "decode", "encode", "joined", "read_frame", "read_prefix"]
