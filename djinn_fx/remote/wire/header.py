"""What a frame's header says of its tensors, one entry for each, checked once for all frames that say the same."""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.limits import Limits
from djinn_fx.remote.wire.text import parsed, values_in, written

#: Of a whole header, whatever the frame's version.
_PARTS = {"schema", "kind", "fields", "tensors"}
_KEYS = {"name", "bytes", "dtype", "axes", "sha256"}
#: What a header begins with, and what comes after its fields.
_BEGINS, _THEN = b'{"fields":', b',"kind":'
#: What follows the fields is remembered if it is no longer than that.
_KEPT_BYTES = 4096
#: Headers with fewer brackets than that are read by anybody who reads JSON.
_SHALLOW = 200


class Entry(NamedTuple):
    """One tensor of a frame.

    Attributes:
        name: in the frame.
        nbytes: of its payload.
        dtype: torch's name of the element type.
        axes: as :attr:`djinn_fx.remote.wire.payload.Payload.axes`.
        sha256: its digest; None from a sender that leaves this to the carrier.
        codec: by which the payload is packed; None, and not written: it is not.
    """

    name: str
    nbytes: int
    dtype: str
    axes: tuple[int, ...] | None
    sha256: str | None
    codec: str | None = None


@functools.lru_cache(maxsize=4096)
def entry_text(entry: Entry) -> str:
    """An entry as JSON."""
    content: dict[str, Any] = {"axes": entry.axes, "bytes": entry.nbytes}
    if entry.codec is not None:
        content["codec"] = entry.codec
    content |= {"dtype": entry.dtype, "name": entry.name, "sha256": entry.sha256}
    return json.dumps(content, separators=(",", ":"))


def header_text(schema: str, kind: str, fields: Any, entries: list[Entry], limits: Limits) -> bytes:
    """A header.

    Raises:
        EngineError: the fields are not JSON, or there is more than the reader takes.
    """
    if len(entries) > limits.tensors:
        raise EngineError(f"a frame of {len(entries)} tensors; at most {limits.tensors} are allowed")
    text = b'%s%s,"kind":%s,"schema":"%s","tensors":[%s]}' % (
        _BEGINS,
        written(fields, "a frame's header"),
        _quoted(kind),
        schema.encode(),
        ",".join(map(entry_text, entries)).encode(),
    )
    # What cannot be read is not sent.
    if values_in(text) > min(_SHALLOW, limits.header_values):
        parsed(text, "a frame's header", limits.header_bytes, limits.header_values)
    return text


def read_header(raw: bytes, schema: str, limits: Limits) -> tuple[str, dict[str, Any], tuple[Entry, ...]]:
    """Kind, fields, and entries.

    Raises:
        EngineError: it is no header, or of more than is allowed.
    """
    place = raw.rfind(_THEN) if raw.startswith(_BEGINS) else -1
    if place < 0:
        return _read(raw, schema, limits)
    # As we write it: the fields, then what a frame with tensors like these had too. Quotes within a name are written as
    # two characters, so that what looks like the end of the fields is that.
    told = raw[place:].rstrip()
    try:
        fields = parsed(raw[len(_BEGINS) : place], "a frame's header", limits.header_bytes, limits.header_values)
        kind, _, entries = (_read_once if len(told) <= _KEPT_BYTES else _read)(_BEGINS + b"{}" + told, schema, limits)
    except EngineError:  # it is written in another order, or the error is of all of it
        return _read(raw, schema, limits)
    return kind, fields, entries


def _read(raw: bytes, schema: str, limits: Limits) -> tuple[str, dict[str, Any], tuple[Entry, ...]]:
    """As :func:`read_header`, in one piece."""
    content = parsed(raw, "a frame's header", limits.header_bytes, limits.header_values)
    if content.keys() != _PARTS or content["schema"] != schema:
        raise EngineError(f"a frame whose header is not of the form {schema}")
    kind, fields, entries = content["kind"], content["fields"], content["tensors"]
    if not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(entries, list)):
        raise EngineError(f"a frame whose header is not of the form {schema}")
    if len(entries) > limits.tensors:
        raise EngineError(f"a frame of {len(entries)} tensors; at most {limits.tensors} are allowed")
    return kind, fields, tuple(_entry(one) for one in entries)


_read_once = functools.lru_cache(maxsize=512)(_read)


@functools.lru_cache(maxsize=256)
def _quoted(text: str) -> bytes:
    return json.dumps(text).encode()


def _entry(found: Any) -> Entry:
    """An entry of a header.

    Raises:
        EngineError: it is not what it should be.
    """
    if not isinstance(found, dict) or found.keys() - {"codec"} != _KEYS:
        raise EngineError(f"a frame whose list of tensors holds {json.dumps(found)[:120]}")
    name, nbytes, dtype = found["name"], found["bytes"], found["dtype"]
    axes, sha256, codec = found["axes"], found["sha256"], found.get("codec")
    right = (
        type(name) is str
        and type(nbytes) is int
        and nbytes >= 0
        and type(dtype) is str
        and (axes is None or (type(axes) is list and all(type(dim) is int for dim in axes)))
        and (sha256 is None or type(sha256) is str)
        and (codec is None or type(codec) is str)
    )
    if not right:
        raise EngineError(f"a frame whose list of tensors holds {json.dumps(found)[:120]}")
    return Entry(name, nbytes, dtype, None if axes is None else tuple(axes), sha256, codec)


__all__ = ["Entry", "entry_text", "header_text", "read_header"]
