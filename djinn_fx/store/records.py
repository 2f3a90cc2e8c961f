"""What the store remembers besides artefacts: builds that failed, and what the last missed key was made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from djinn_fx.reasons import Reason
from djinn_fx.store import files
from djinn_fx.store.folder import LAST_MISS, Folder
from djinn_fx.store.format import JSON, MAX_HEADER_BYTES, DamagedEntry

#: No negative entry is believed longer; it bounds how long one that is never asked for again stays on disk.
MAX_NEGATIVE_S = 30 * 86400.0
_MAX_NEGATIVE_BYTES = 2**20


@dataclass(frozen=True)
class LastMiss:
    """The key that missed last, in whichever process; ``time_s`` since the epoch."""

    key: str
    fields: JSON
    canonical: JSON
    time_s: float


class Records:
    """See the module's text; each file is signed for its own name.

    Args:
        folder: the store's.
        clock: seconds since the epoch, for the expiry of negative entries.
    """

    def __init__(self, folder: Folder, clock: Callable[[], float]) -> None:
        self._folder, self._clock = folder, clock

    def put_negative(self, key: str, reason: Reason, expires_s: float) -> bool:
        """See ``Store.put_negative``."""
        until = self._clock() + min(expires_s, MAX_NEGATIVE_S)
        record = {"schema": 1, "expires": until, "reason": reason.to_json()}
        return self._folder.write_record(self._negative(key), record, f"negative {key}")

    def get_negative(self, key: str) -> Reason | None:
        """See ``Store.get_negative``."""
        path = self._negative(key)
        record = self._folder.read_record(path, _MAX_NEGATIVE_BYTES, f"negative {key}")
        if record is None:
            return None
        try:
            left_s = float(record["expires"]) - self._clock()
            reason = Reason.from_json(record["reason"])
        except (KeyError, TypeError, ValueError) as error:
            self._folder.discard(path, DamagedEntry(f"not a negative entry ({error})"))
            return None
        # Further ahead than any entry is written: the machine's clock was wrong then or is wrong now.
        if not 0 < left_s <= MAX_NEGATIVE_S:
            with suppress(OSError):
                files.remove(path)
            return None
        self._folder.ledger.count("negative")
        return reason

    def forget_negative(self, key: str) -> None:
        """Drop the negative entry of a key, if there is one.

        Raises:
            OSError: it cannot be deleted.
        """
        files.remove(self._negative(key))

    def record_miss(self, key: str, fields: JSON, canonical: JSON) -> bool:
        """See ``Store.record_miss``."""
        record = {"schema": 1, "key": key, "fields": fields, "canonical": canonical, "time_s": self._clock()}
        return self._folder.write_record(self._folder.root / LAST_MISS, record, "last miss")

    def read_last_miss(self) -> LastMiss | None:
        """See ``Store.read_last_miss``."""
        path = self._folder.root / LAST_MISS
        record = self._folder.read_record(path, 2 * MAX_HEADER_BYTES, "last miss")
        if record is None:
            return None
        try:
            return LastMiss(str(record["key"]), record["fields"], record["canonical"], float(record["time_s"]))
        except (KeyError, TypeError, ValueError) as error:
            self._folder.discard(path, DamagedEntry(f"not a record of a miss ({error})"))
            return None

    def _negative(self, key: str) -> Path:
        return self._folder.root / "negative" / f"{key}.json"
