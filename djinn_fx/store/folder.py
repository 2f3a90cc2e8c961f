"""The store's directory as its parts use it: files are written whole and signed, what is worthless is deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from djinn_fx.errors import StoreError
from djinn_fx.files.private import write_atomic
from djinn_fx.files.signing import Signer, seal, signer
from djinn_fx.reasons import ReasonKind
from djinn_fx.store import files
from djinn_fx.store.format import JSON, DamagedEntry, ForeignEntry, OutdatedEntry
from djinn_fx.store.ledger import Ledger
from djinn_fx.threads import new_lock

LAST_MISS = "last-miss.json"
FOLDERS = ("entries", "negative", "locks", "scratch")
OWN_NAMES = frozenset({*FOLDERS, LAST_MISS})


class Folder:
    """See the module's text. Nothing here raises for what is wrong with the disk: the ledger is told.

    Args:
        root: the directory.
        ledger: the store's.
    """

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.root, self.ledger = root, ledger
        #: Keys for which somebody else wrote something, and how that shows.
        self.foreign: dict[str, str] = {}
        self._mutex = new_lock()

    def signer(self) -> Signer:
        """By whom files are signed now."""
        found = signer()
        with self._mutex:
            if found.reason is not None and found.reason not in self.ledger.reasons:
                self.ledger.reasons.append(found.reason)  # it has been logged, once a process
        return found

    def discard(self, path: Path, problem: DamagedEntry) -> None:
        """Delete what is worthless. What somebody else signed stays: it may be of use to them."""
        name = f"{path.parent.name}/{path.name}"
        if isinstance(problem, ForeignEntry):
            self.foreign[path.stem] = str(problem)
            self.ledger.foreign(name, str(problem), path.stem)
            return
        self.ledger.count("corrupt")
        level, what = (logging.INFO, "outdated") if isinstance(problem, OutdatedEntry) else (logging.WARNING, "damaged")
        self.ledger.tell(level, ReasonKind.CACHE_MISS, f"{name} is {what} and is deleted: {problem}", path.stem)
        try:
            files.remove(path)
        except OSError as error:
            self.ledger.unusable("delete from", error)

    def write(self, path: Path, pieces: Iterable[bytes]) -> bool:
        """Write one file of the store, creating its directories; False, counted and logged, if that fails.

        Raises:
            DamagedEntry: raised by ``pieces``; nothing was written.
        """
        try:
            files.make_private(self.root, own_names=OWN_NAMES)
            for folder in {self.root / "scratch", path.parent} - {self.root}:
                files.make_private(folder)
            write_atomic(path, pieces, scratch=self.root / "scratch")
        except (OSError, StoreError) as error:
            self.ledger.count("write_failures")
            self.ledger.unusable("write to", error)
            return False
        return True

    def write_record(self, path: Path, record: dict[str, JSON], purpose: str) -> bool:
        """Write a small signed file; see :meth:`write`."""
        try:
            text = seal(purpose, record)
        except (TypeError, ValueError, RecursionError) as error:
            self.ledger.count("write_failures")
            self.ledger.tell(logging.WARNING, ReasonKind.UNCACHEABLE, f"{path.name} is not JSON: {error}", path.stem)
            return False
        return self.write(path, [text])

    def read_record(self, path: Path, max_bytes: int, purpose: str) -> dict[str, Any] | None:
        """What :meth:`write_record` wrote; None if nothing of this user's is there."""
        try:
            return files.read_record(path, max_bytes, purpose)
        except FileNotFoundError:
            pass  # nothing on record
        except DamagedEntry as problem:
            self.discard(path, problem)
        except OSError as error:
            self.ledger.unusable("read", error)
        return None
