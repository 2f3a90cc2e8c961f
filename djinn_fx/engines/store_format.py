"""The format of one cache entry: a fixed prefix, a JSON header, the payload. No pickle, no torch.

    magic (8 bytes) | schema version u32 | header bytes u32 | payload bytes u64 | sha256 (32 bytes)
    header, JSON in UTF-8
    payload

Numbers are little-endian. The checksum covers the prefix before it, the key, the header and the payload, so an
entry that was copied under another key is as damaged as one with a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

#: Any JSON value. An alias only: mypy's recursive form would make every caller spell out its dictionaries.
JSON = Any

MAGIC = b"DJINNFX\n"
SCHEMA_VERSION = 1
MAX_HEADER_BYTES = 16 * 2**20
MAX_PAYLOAD_BYTES = 2 * 2**30

_NUMBERS = struct.Struct("<8sIIQ")
PREFIX_BYTES = _NUMBERS.size + hashlib.sha256().digest_size
MAX_ENTRY_BYTES = PREFIX_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES

_KEY = re.compile(r"[0-9a-f]{64}")


class DamagedEntry(ValueError):
    """What was read is not a whole, untouched entry. Never leaves the store: it becomes a miss or a listed problem."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry read back, checksum verified."""

    header: dict[str, Any]
    payload: bytes


@dataclass(frozen=True)
class EntryInfo:
    """An entry in a listing. The header was read, its checksum was not verified; ``mtime`` is the last use."""

    key: str
    nbytes: int
    mtime: float
    header: dict[str, Any]


def is_key(text: str) -> bool:
    """Whether ``text`` is 64 lower-case hexadecimal digits."""
    return _KEY.fullmatch(text) is not None


def encode(key: str, header: Mapping[str, JSON], payload: bytes) -> list[bytes]:
    """The pieces of an entry's file, in order. The payload is passed through, not copied: it may be gigabytes.

    Raises:
        ValueError: the header is not JSON, or the header or the payload is larger than the format allows.
    """
    try:
        head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its header cannot be written as JSON ({error})") from error
    if len(head) > MAX_HEADER_BYTES:
        raise ValueError(f"its header takes {len(head)} bytes, more than {MAX_HEADER_BYTES}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"its payload takes {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    numbers = _NUMBERS.pack(MAGIC, SCHEMA_VERSION, len(head), len(payload))
    return [numbers + _digest(numbers, key, head, payload), head, payload]


def read_entry(stream: BinaryIO, nbytes: int, key: str) -> StoredEntry:
    """Read and verify an entry that takes ``nbytes`` from the stream's position on.

    Raises:
        DamagedEntry: what is wrong, in words.
    """
    numbers, digest, payload_bytes, head = _read_head(stream, nbytes)
    payload = _read_exactly(stream, payload_bytes)
    if _digest(numbers, key, head, payload) != digest:
        raise DamagedEntry("the checksum does not match")
    return StoredEntry(_parse_header(head), payload)


def read_header(stream: BinaryIO, nbytes: int) -> dict[str, Any]:
    """Read the header only. The checksum is *not* verified: it covers the payload, which is not read.

    Raises:
        DamagedEntry: what is wrong, in words.
    """
    return _parse_header(_read_head(stream, nbytes)[3])


def _read_head(stream: BinaryIO, nbytes: int) -> tuple[bytes, bytes, int, bytes]:
    """The prefix's numbers as bytes, its checksum, the payload's size, and the header's bytes."""
    if nbytes < PREFIX_BYTES:
        raise DamagedEntry(f"{nbytes} bytes are too few for an entry")
    numbers = _read_exactly(stream, _NUMBERS.size)
    magic, schema, header_bytes, payload_bytes = _NUMBERS.unpack(numbers)
    if magic != MAGIC:
        raise DamagedEntry("not an entry of djinn-fx")
    if schema != SCHEMA_VERSION:
        raise DamagedEntry(f"schema version {schema}, this version reads {SCHEMA_VERSION}")
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise DamagedEntry("it claims to be larger than an entry may be")
    # Sizes are compared with the file before anything is read, so that a lie never makes us reserve memory.
    if nbytes != PREFIX_BYTES + header_bytes + payload_bytes:
        raise DamagedEntry(f"it has {nbytes} bytes and says {PREFIX_BYTES + header_bytes + payload_bytes}")
    digest = _read_exactly(stream, PREFIX_BYTES - _NUMBERS.size)
    return numbers, digest, payload_bytes, _read_exactly(stream, header_bytes)


def _parse_header(head: bytes) -> dict[str, Any]:
    try:
        header = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise DamagedEntry(f"the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise DamagedEntry("the header is not a JSON object")
    return header


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise DamagedEntry("it is cut short")
    return data


def _digest(numbers: bytes, key: str, head: bytes, payload: bytes) -> bytes:
    checksum = hashlib.sha256(numbers)
    checksum.update(key.encode())
    checksum.update(head)
    checksum.update(payload)
    return checksum.digest()
