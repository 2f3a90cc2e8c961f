"""The format of one cache entry: a fixed prefix, a JSON header, the payload. No pickle, no torch.

    magic (8 bytes) | schema version u32 | header bytes u32 | payload bytes u64
    sha256 of the payload | signature | checksum (32 bytes each)
    header, JSON in UTF-8
    payload

Numbers are little-endian. The signature is the user's (:mod:`djinn_fx.files.signing`), of the numbers, the key, the
payload's sha256 and the header: an entry that was copied under another key is as worthless as one with a flipped bit.
The checksum covers all that and the signature. So an entry that somebody else wrote is found out before its header is
parsed or its payload read, and every byte is hashed once. Entries that travel (bundles, saved functions) have zeros
for a signature.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from djinn_fx.files.signing import SIGNATURE_BYTES, Signer

#: Any JSON value. An alias only: mypy's recursive form would make every caller spell out its dictionaries.
JSON = Any

MAGIC = b"DJINNFX\n"
SCHEMA_VERSION = 2
#: The largest headers are canonical forms, 120 to 250 bytes an op: 32,000 ops and more.
MAX_HEADER_BYTES = 8 * 2**20
#: Values in a header: what parsing takes in time and memory goes by their number. Ours have one in 4 bytes.
MAX_HEADER_VALUES = 2_000_000
MAX_PAYLOAD_BYTES = 2 * 2**30

_NUMBERS = struct.Struct("<8sIIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size
PREFIX_BYTES = _NUMBERS.size + 2 * _DIGEST_BYTES + SIGNATURE_BYTES
_UNSIGNED = bytes(SIGNATURE_BYTES)
_PURPOSE = "entry"
_CHUNK_BYTES = 2**20
MAX_ENTRY_BYTES = PREFIX_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES

_KEY = re.compile(r"[0-9a-f]{64}")


class DamagedEntry(ValueError):
    """What was read is not a whole, untouched entry. Never leaves the store: it becomes a miss or a listed problem."""


class OutdatedEntry(DamagedEntry):
    """It was written by another version of djinn-fx."""


class ForeignEntry(DamagedEntry):
    """It is whole, but not signed with this user's key: somebody else wrote it."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry read back, checksum verified."""

    header: dict[str, Any]
    payload: bytes


@dataclass(frozen=True)
class EntryInfo:
    """An entry in a listing: header and signature are right, the payload was not read; ``mtime`` is the last use."""

    key: str
    nbytes: int
    mtime: float
    header: dict[str, Any]


def is_key(text: str) -> bool:
    """Whether ``text`` is 64 lower-case hexadecimal digits."""
    return _KEY.fullmatch(text) is not None


def encode(key: str, header: Mapping[str, JSON], payload: bytes, signer: Signer | None = None) -> list[bytes]:
    """The pieces of an entry's file, in order. The payload is passed through, not copied: it may be gigabytes.

    Args:
        key: of the entry.
        header: any JSON object.
        payload: any bytes.
        signer: None for an entry that travels: who takes it in, signs it.

    Raises:
        ValueError: the header is not JSON, or the header or the payload is larger than the format allows.
    """
    try:
        raw = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its header cannot be written as JSON ({error})") from error
    if len(raw) > MAX_HEADER_BYTES or _values(raw) > MAX_HEADER_VALUES:
        raise ValueError(f"its header has {len(raw)} bytes and {_values(raw)} values, more than is allowed")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"its payload takes {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    numbers = _NUMBERS.pack(MAGIC, SCHEMA_VERSION, len(raw), len(payload))
    head = Head(numbers, hashlib.sha256(payload).digest(), _UNSIGNED, raw, len(payload))
    return [head.prefix(key, signer), raw, payload]


class Head(NamedTuple):
    """What comes before an entry's payload; its checksum was found right.

    Attributes:
        numbers: the prefix's first part.
        payload_digest: SHA-256 of the payload.
        signature: zeros for none.
        raw: the header's bytes.
        payload_bytes: how many there are.
    """

    numbers: bytes
    payload_digest: bytes
    signature: bytes
    raw: bytes
    payload_bytes: int

    def digest(self, key: str) -> bytes:
        """What is signed."""
        made = hashlib.sha256(self.numbers)
        made.update(key.encode())
        made.update(self.payload_digest)
        made.update(self.raw)
        return made.digest()

    def prefix(self, key: str, signer: Signer | None) -> bytes:
        """The prefix of the entry when it is signed; by nobody for None."""
        digest = self.digest(key)
        signature = signer.sign(_PURPOSE, digest) if signer is not None else _UNSIGNED
        checksum = hashlib.sha256(digest + signature).digest()
        return self.numbers + self.payload_digest + signature + checksum

    def check_signed(self, key: str, signer: Signer) -> None:
        """Nothing, if this user wrote it.

        Raises:
            ForeignEntry: somebody else did.
        """
        if not signer.signed(_PURPOSE, self.digest(key), self.signature):
            how = "is not signed" if self.signature == _UNSIGNED else "is signed with another key than yours"
            raise ForeignEntry(f"it {how}")

    def header(self) -> dict[str, Any]:
        """The header.

        Raises:
            DamagedEntry: it is none.
        """
        return _parse_header(self.raw)


def read_head(stream: BinaryIO, nbytes: int, key: str) -> Head:
    """Read an entry that takes ``nbytes`` from the stream's position on, up to its payload; the checksum is verified.

    Raises:
        DamagedEntry: what is wrong, in words.
    """
    if nbytes < _NUMBERS.size:
        raise DamagedEntry(f"{nbytes} bytes are too few for an entry")
    numbers = _read_exactly(stream, _NUMBERS.size)
    magic, schema, header_bytes, payload_bytes = _NUMBERS.unpack(numbers)
    if magic != MAGIC:
        raise DamagedEntry("not an entry of djinn-fx")
    if schema != SCHEMA_VERSION:
        raise OutdatedEntry(f"schema version {schema}, this version of djinn-fx reads {SCHEMA_VERSION}")
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise DamagedEntry("it claims to be larger than an entry may be")
    # Sizes are compared with the file before anything is read, so that a lie never makes us reserve memory.
    if nbytes != PREFIX_BYTES + header_bytes + payload_bytes:
        raise DamagedEntry(f"it has {nbytes} bytes and says {PREFIX_BYTES + header_bytes + payload_bytes}")
    payload_digest = _read_exactly(stream, _DIGEST_BYTES)
    signature = _read_exactly(stream, SIGNATURE_BYTES)
    checksum = _read_exactly(stream, _DIGEST_BYTES)
    head = Head(numbers, payload_digest, signature, _read_exactly(stream, header_bytes), payload_bytes)
    if hashlib.sha256(head.digest(key) + signature).digest() != checksum:
        raise DamagedEntry("the checksum does not match")
    return head


def read_entry(stream: BinaryIO, nbytes: int, key: str, signer: Signer | None) -> StoredEntry:
    """Read and verify an entry that takes ``nbytes`` from the stream's position on.

    Args:
        stream: where it begins.
        nbytes: how many it has.
        key: what it must have been written for.
        signer: whose it must be; None where the user said that it is to be taken (a file they named).

    Raises:
        DamagedEntry: what is wrong, in words.
    """
    head = read_head(stream, nbytes, key)
    if signer is not None:
        head.check_signed(key, signer)
    payload = _read_exactly(stream, head.payload_bytes)
    if hashlib.sha256(payload).digest() != head.payload_digest:
        raise DamagedEntry("the checksum of its payload does not match")
    return StoredEntry(head.header(), payload)


def check_payload(stream: BinaryIO, head: Head) -> None:
    """Read the payload that follows, piece by piece, and keep nothing of it.

    Raises:
        DamagedEntry: it is not the one that was written.
    """
    checksum = hashlib.sha256()
    for piece in pieces_of(stream, head.payload_bytes):
        checksum.update(piece)
    if checksum.digest() != head.payload_digest:
        raise DamagedEntry("the checksum of its payload does not match")


def pieces_of(stream: BinaryIO, nbytes: int) -> Iterator[bytes]:
    """The next bytes of a stream, a megabyte at a time.

    Raises:
        DamagedEntry: there are not as many.
    """
    while nbytes > 0:
        piece = _read_exactly(stream, min(nbytes, _CHUNK_BYTES))
        nbytes -= len(piece)
        yield piece


def _values(raw: bytes) -> int:
    """At least as many as JSON text has values, counted without parsing it."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _parse_header(raw: bytes) -> dict[str, Any]:
    if _values(raw) > MAX_HEADER_VALUES:
        raise DamagedEntry(f"the header has {_values(raw)} values, more than {MAX_HEADER_VALUES}")
    try:
        header = json.loads(raw)
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
