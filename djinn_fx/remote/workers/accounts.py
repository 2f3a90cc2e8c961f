"""What a worker has taken and given, in bytes by kind of frame: it tells whoever asks, not its client alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.carried import begin_of, size_of
from djinn_fx.remote.wire.frame import PREFIX_BYTES, SCHEMA, read_prefix

#: What stands in a header behind its kind. Texts in a header have their quotes escaped, so that none holds this.
_BEHIND = f'","schema":"{SCHEMA}","tensors":['.encode()
_BEFORE = b'"kind":"'
#: How what is no frame is counted.
UNREADABLE = "unreadable"


class Accounts:
    """Counts frames. For one thread at a time; another may read what :meth:`told` gives.

    Attributes:
        took: bytes of frames that came, by kind.
        gave: bytes of frames that left.
    """

    def __init__(self) -> None:
        self.took: Counter[str] = Counter()
        self.gave: Counter[str] = Counter()

    def came(self, frames: Iterable[Any]) -> None:
        """Frames came."""
        _add(self.took, frames)

    def leave(self, frames: Iterable[Any]) -> None:
        """Frames leave."""
        _add(self.gave, frames)

    def told(self) -> dict[str, dict[str, int]]:
        """Both, as plain data."""
        return {"took": dict(self.took), "gave": dict(self.gave)}


def kind_of(frame: Any) -> str:
    """The kind that a frame says it is of, found without reading the rest; :data:`UNREADABLE` for what is none."""
    raw = begin_of(frame)
    try:
        header = bytes(raw[PREFIX_BYTES : PREFIX_BYTES + read_prefix(raw[:PREFIX_BYTES]).header_bytes])
    except EngineError:
        return UNREADABLE
    end = header.rfind(_BEHIND)
    begin = header.rfind(_BEFORE, 0, max(0, end))
    return header[begin + len(_BEFORE) : end].decode(errors="replace") if 0 <= begin < end else UNREADABLE


def _add(counter: Counter[str], frames: Iterable[Any]) -> None:
    for frame in frames:
        counter[kind_of(frame)] += size_of(frame)
