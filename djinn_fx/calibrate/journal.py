"""The journal of a calibration: outcomes as they come, so that one that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from djinn_fx.calibrate.child import Outcome
from djinn_fx.files.signing import signer
from djinn_fx.store import files

FILE = "journal.jsonl"
_MAX_BYTES = 64 * 2**20


def forget(folder: Path) -> None:
    """Remove the journal, if there is one: what it holds is in the profile."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink()


class Journal:
    """Outcomes by task and round, one JSON line each, below a line that says under what conditions they were found.

    Args:
        folder: of the profile; it must exist.
        head: the conditions, a JSON object; a journal of others begins anew.
        fresh: begin anew in any case.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = folder / FILE
        self.known: dict[tuple[str, int], Outcome] = {}
        #: Whether a journal of other conditions was dropped.
        self.dropped = False
        # Signed: a profile, which is signed too, must not be fitted to a journal that somebody else put here.
        digest = hashlib.sha256(json.dumps(dict(head), sort_keys=True).encode()).digest()
        first = {**head, "signature": signer().sign("journal", digest).hex()}
        stored = None if fresh else self._read(json.loads(json.dumps(first)))
        if stored is None:
            self._file = self._open(os.O_TRUNC)
            self._put(first)
        else:
            self.known = stored
            self._file = self._open(os.O_APPEND)

    def add(self, turn: int, outcome: Outcome) -> None:
        """Keep an outcome of a round."""
        self.known[outcome.task, turn] = outcome
        self._put({"round": turn, **outcome.to_json()})

    def close(self) -> None:
        """Close the file; it stays."""
        self._file.close()

    def _open(self, how: int) -> TextIO:
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | how
        return os.fdopen(os.open(self.path, flags, 0o600), "w", encoding="utf-8")

    def _put(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self, head: dict[str, Any]) -> dict[tuple[str, int], Outcome] | None:
        """The outcomes so far; None if there is no journal of these conditions. A line cut in half is left out."""
        try:
            lines = files.read_small(self.path, _MAX_BYTES).decode().splitlines()
        except (OSError, ValueError):  # there is none, or it is no file of this user's
            return None
        try:
            if not lines or json.loads(lines[0]) != head:
                self.dropped = bool(lines)
                return None
        except (ValueError, RecursionError):
            self.dropped = True
            return None
        found: dict[tuple[str, int], Outcome] = {}
        for line in lines[1:]:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                data = json.loads(line)
                turn = int(data.pop("round"))
                outcome = Outcome.from_json(data)
                found[outcome.task, turn] = outcome
        # A line that was cut in half must not swallow the one that is written next.
        if lines and not self._ends_well():
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        return found

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
