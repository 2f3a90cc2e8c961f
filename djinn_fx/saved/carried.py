"""What a saved function carries besides torch's own bytes: artefacts under their keys, each a whole cache entry.

    entry of djinn's store format, key 64 zeros:
        header   {"format": 1, "made_by": {...}, "parts": [[name, bytes], ...]}
        payload  the parts, one after another; "torch" is what torch pickled, each other one is an entry under its key

JSON and bytes, checksums over all; see :mod:`djinn_fx.store.format`. Nothing is signed: the user who names a
file to load says that it is to be trusted, as with every pickle.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from djinn_fx.errors import StoreError
from djinn_fx.store.format import DamagedEntry, StoredEntry, encode, is_key, read_entry, read_head
from djinn_fx.store.store import Store

#: Raised when the meaning of a saved function's bytes changes.
FORMAT = 1
_KEY = "0" * 64
_TORCH = "torch"


class Carried:
    """Artefacts by key: those of a file that was read, or those that are being gathered for one.

    Args:
        store: where an artefact is taken from that is not carried yet; None if only what is carried counts.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._entries: dict[str, StoredEntry] = {}
        #: That the graphs run on.
        self.devices: set[str] = set()

    def get(self, key: str) -> StoredEntry | None:
        """The artefact of a key; carried from now on."""
        if key not in self._entries and self._store is not None and is_key(key):
            entry = self._store.get(key)
            if entry is not None:
                # The form is for `djinn cache why`; a graph that needs it has its own copy.
                header = {name: value for name, value in entry.header.items() if name != "canonical"}
                self._entries[key] = StoredEntry(header, entry.payload)
        return self._entries.get(key)

    def keys(self) -> tuple[str, ...]:
        """What is carried."""
        return tuple(self._entries)

    def entries(self) -> tuple[StoredEntry, ...]:
        """The artefacts themselves."""
        return tuple(self._entries.values())

    @property
    def nbytes(self) -> int:
        """How many bytes of artefacts are carried."""
        return sum(len(entry.payload) for entry in self._entries.values())

    def to_bytes(self, torch_bytes: bytes, made_by: Mapping[str, Any]) -> bytes:
        """The file's contents.

        Raises:
            StoreError: they are larger than the format allows.
        """
        parts = {_TORCH: [torch_bytes]}
        try:
            parts |= {key: encode(key, entry.header, entry.payload) for key, entry in self._entries.items()}
            sizes = [[name, sum(map(len, pieces))] for name, pieces in parts.items()]
            payload = b"".join(piece for pieces in parts.values() for piece in pieces)
            return b"".join(encode(_KEY, {"format": FORMAT, "made_by": dict(made_by), "parts": sizes}, payload))
        except ValueError as error:
            raise StoreError(f"a compiled function cannot be saved: {error}") from error


def made_by_of(data: bytes) -> Mapping[str, Any]:
    """What made a saved function, in its own words; the checksum of these is verified, that of the parts not yet.

    Raises:
        StoreError: it is no saved function, is damaged, or has another format.
    """
    try:
        header = read_head(io.BytesIO(data), len(data), _KEY).header()
    except DamagedEntry as error:
        raise _damaged(error) from error
    return dict(_checked(header)["made_by"])


def from_bytes(data: bytes) -> tuple[bytes, Carried]:
    """Torch's part of a saved function, and the artefacts that it carries.

    Raises:
        StoreError: as :func:`made_by_of`.
    """
    entry, carried = _read(data), Carried()
    carried.devices.update(entry.header["made_by"].get("devices", ()))
    torch_bytes, position = b"", 0
    try:
        for name, size in entry.header["parts"]:
            part = entry.payload[position : position + size]
            position += size
            if name == _TORCH:
                torch_bytes = part
            else:
                carried._entries[name] = read_entry(io.BytesIO(part), len(part), name, None)
    except (DamagedEntry, TypeError, ValueError, KeyError) as error:
        raise _damaged(error) from error
    return torch_bytes, carried


def _read(data: bytes) -> StoredEntry:
    try:
        entry = read_entry(io.BytesIO(data), len(data), _KEY, None)
    except DamagedEntry as error:
        raise _damaged(error) from error
    _checked(entry.header)
    return entry


def _damaged(error: Exception) -> StoreError:
    return StoreError(f"the saved function is damaged: {error}; compile and save it anew")


def _checked(header: Mapping[str, Any]) -> Mapping[str, Any]:
    found = header.get("format")
    if found != FORMAT or not isinstance(header.get("made_by"), dict):
        raise StoreError(f"the saved function has format {found}, this djinn-fx reads {FORMAT}; compile it anew")
    return header
