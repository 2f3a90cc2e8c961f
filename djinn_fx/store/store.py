"""The disk cache of compiled artefacts: one file an entry, safe between processes, never a cause of failure.

    <root>/entries/<key>         header and payload, see :mod:`djinn_fx.store.format`
    <root>/negative/<key>.json   why building this key failed, until when that is believed
    <root>/locks/<key>.lock      held by the process that builds this key
    <root>/scratch/              files being written
    <root>/last-miss.json        what the last missed key was made of, for ``djinn cache why last-miss``

All of it is signed with the user's key (:mod:`djinn_fx.files.signing`): what somebody else put there is a miss. It
stays where it is until it is written anew.

Whatever is wrong with the disk, ``get`` answers None and ``put`` answers False: the caller compiles, as it would
without a cache. Each cause is logged once (logger ``djinn_fx.store``) and kept in ``Store.reasons``.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from djinn_fx.errors import StoreError
from djinn_fx.files.private import default_cache_dir
from djinn_fx.files.signing import signer
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.store import files
from djinn_fx.store.diff import ABSENT, FieldDifference, difference, nearest
from djinn_fx.store.folder import FOLDERS, LAST_MISS, OWN_NAMES, Folder
from djinn_fx.store.format import (
    JSON,
    DamagedEntry,
    EntryInfo,
    ForeignEntry,
    StoredEntry,
    check_payload,
    encode,
    is_key,
    pieces_of,
    read_entry,
    read_head,
)
from djinn_fx.store.ledger import Ledger, StoreCounters, logger
from djinn_fx.store.records import MAX_NEGATIVE_S, LastMiss, Records
from djinn_fx.units import format_bytes

__all__ = [
    "ABSENT",
    "MAX_NEGATIVE_S",
    "EntryInfo",
    "FieldDifference",
    "LastMiss",
    "Store",
    "StoreCounters",
    "StoredEntry",
    "default_cache_dir",
    "difference",
    "nearest",
]

DEFAULT_LIMIT_BYTES = 20_000_000_000
#: A file in scratch/ this old was left by a process that died; no write takes as long.
STALE_SCRATCH_S = 3600.0
_OWN_FILE = re.compile(r"([0-9a-f]{64}|last-miss)(\..*)?")


class Store:
    """The cache directory, created on first write. Threads and processes may share one.

    Args:
        root: the directory.
        limit_bytes: evict the least recently used entries above this.
        clock: seconds since the epoch, for the expiry of negative entries.

    Raises:
        StoreError: ``root`` is a symbolic link, not a directory, or another user's. Later only for a key that is
            not 64 lower-case hexadecimal digits.
    """

    def __init__(
        self, root: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.root = Path(root)
        self.limit_bytes = limit_bytes
        self._ledger = Ledger(self.root)
        self._folder = Folder(self.root, self._ledger)
        self._records = Records(self._folder, clock)
        try:
            for folder in (self.root, *map(self.root.joinpath, FOLDERS)):
                files.check_private(folder)
        except OSError as error:
            self._ledger.unusable("look at", error)

    @classmethod
    def open(cls, root: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> tuple[Store | None, Reason | None]:
        """The store, or the Reason (kind ``CACHE_UNUSABLE``) why its directory is unsafe."""
        try:
            return cls(root, limit_bytes), None
        except StoreError as error:
            return None, Reason(kind=ReasonKind.CACHE_UNUSABLE, detail=str(error))

    @property
    def counters(self) -> StoreCounters:
        """The counts so far; a snapshot."""
        return self._ledger.counters

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The latest decisions, 256 at most: evictions, damaged entries, what makes the cache unusable."""
        return tuple(self._ledger.reasons)

    @property
    def troubled(self) -> bool:
        """Whether the directory has refused to be read, written or locked."""
        return self._ledger.troubled

    # Entries

    def entry_path(self, key: str) -> Path:
        """Where this key's entry is, whether it exists or not.

        Raises:
            StoreError: ``key`` is not 64 lower-case hexadecimal digits.
        """
        if not is_key(key):
            raise StoreError(f"{key!r} is not a cache key: 64 lower-case hexadecimal digits are needed")
        return self.root / "entries" / key

    def get(self, key: str) -> StoredEntry | None:
        """The entry, marked as just used, or None. A damaged one is counted, deleted and None."""
        path = self.entry_path(key)
        entry: StoredEntry | None = None
        try:
            stream, status = files.open_own(path)
            with stream:
                entry = self._read_or_discard(key, path, stream, status)
        except FileNotFoundError:
            pass  # the ordinary miss
        except DamagedEntry as problem:
            self._folder.discard(path, problem)
        except OSError as error:
            self._ledger.unusable("read", error)
        self._ledger.count("misses" if entry is None else "hits")
        if entry is not None:
            # A cache that may only be read still serves its entries; their order of use is then not kept.
            with suppress(OSError):
                os.utime(path)
        return entry

    def has(self, key: str) -> bool:
        """Whether an entry of this user is there; its payload is not read, and it does not count as used."""
        try:
            stream, status = files.open_own(self.entry_path(key))
            with stream:
                read_head(stream, status.st_size, key).check_signed(key, self._folder.signer())
        except (DamagedEntry, OSError):
            return False
        return True

    def put(self, key: str, header: Mapping[str, JSON], payload: bytes) -> bool:
        """Write an entry, then evict the least recently used ones until the store is under its limit.

        A negative entry of the same key is dropped. Returns False, with the cause logged, if the entry is larger
        than the limit or the format allows, its header is not JSON, or the disk refuses it.
        """
        path = self.entry_path(key)
        try:
            pieces = encode(key, header, payload, self._folder.signer())
            nbytes = sum(map(len, pieces))
            if nbytes > self.limit_bytes:
                limit = format_bytes(self.limit_bytes)
                raise ValueError(f"it takes {format_bytes(nbytes)}, more than the cache's limit of {limit}")
        except ValueError as error:
            self._ledger.count("write_failures")
            self._ledger.tell(logging.WARNING, ReasonKind.UNCACHEABLE, f"entry {key[:12]} is not kept: {error}", key)
            return False
        return self._folder.write(path, pieces) and self._written(key)

    def adopt(self, key: str, stream: BinaryIO, nbytes: int) -> str | None:
        """Take in an entry from a file that the user named, sign it, and keep it; what is wrong, if it was not kept.

        Its checksums must be right; it is copied piece by piece, and nothing is written before it was read once.

        Args:
            key: of the entry.
            stream: can be sought in; it stands where the entry begins.
            nbytes: that the entry takes.
        """
        path, start = self.entry_path(key), stream.tell()
        if nbytes > self.limit_bytes:
            return f"it takes {format_bytes(nbytes)}, more than the cache's limit"
        try:
            head = read_head(stream, nbytes, key)
            head.header()
            check_payload(stream, head)
            stream.seek(start + nbytes - head.payload_bytes)
            pieces = itertools.chain(
                (head.prefix(key, self._folder.signer()), head.raw), pieces_of(stream, head.payload_bytes)
            )
            if self._folder.write(path, pieces) and self._written(key):
                return None
        except DamagedEntry as problem:
            return str(problem)
        return self.reasons[-1].detail if self.reasons else "the cache directory could not be written"

    def why_missed(self, key: str) -> str:
        """Why this key was not found when it was looked up last, in words."""
        alone = signer().reason
        told = f"; {alone.detail}" if alone is not None else ""
        if key in self._folder.foreign:
            return f"the entry {key[:12]} in {self.root} is not used: {self._folder.foreign[key]}{told}"
        return f"no entry {key[:12]}; `djinn cache why last-miss` shows the nearest{told}"

    @contextmanager
    def lock(self, key: str, timeout: float) -> Iterator[bool]:
        """Be the one builder of a key across processes: look again with :meth:`get` once inside.

        Yields True if the lock is held; False if it was not free within ``timeout`` seconds or the directory cannot
        hold locks. Building all the same is then safe, only double work. The lock of a process that dies is free.
        """
        held = self._acquire(key, timeout)
        try:
            yield held is not None
        finally:
            if held is not None:
                # A lock that cannot be let go goes with the process; the artefact is built all the same.
                with suppress(OSError):
                    held.release()

    # Negative entries and the last miss, see Records

    def put_negative(self, key: str, reason: Reason, expires_s: float) -> bool:
        """Remember for ``expires_s`` seconds (30 days at most) why this key could not be built."""
        return self._records.put_negative(self.entry_path(key).name, reason, expires_s)

    def get_negative(self, key: str) -> Reason | None:
        """Why building this key failed, if that is on record and has not expired."""
        return self._records.get_negative(self.entry_path(key).name)

    def record_miss(self, key: str, fields: JSON, canonical: JSON = None) -> bool:
        """Keep what a missed key was made of, so that another process can say why it missed."""
        return self._records.record_miss(key, fields, canonical)

    def read_last_miss(self) -> LastMiss | None:
        """The record of the last miss, if there is one."""
        return self._records.read_last_miss()

    # The whole store

    def entries(self) -> list[EntryInfo]:
        """All entries of this user whose header can be read, most recently used first.

        Raises:
            OSError: the directory cannot be read.
        """
        found = []
        for path, _ in self._own("entries"):
            with suppress(DamagedEntry, FileNotFoundError):
                stream, status = files.open_own(path)
                with stream:
                    head = read_head(stream, status.st_size, path.name)
                head.check_signed(path.name, self._folder.signer())
                found.append(EntryInfo(path.name, status.st_size, status.st_mtime, head.header()))
        return sorted(found, key=lambda entry: (-entry.mtime, entry.key))

    def foreign(self) -> dict[str, str]:
        """Entries that are whole and that somebody else wrote, by key, and how that shows; none of them is ever used.

        Raises:
            OSError: the directory cannot be read.
        """
        found = {}
        for path, _ in self._own("entries"):
            try:
                stream, status = files.open_own(path)
                with stream:
                    read_head(stream, status.st_size, path.name).check_signed(path.name, self._folder.signer())
            except ForeignEntry as problem:
                found[path.name] = str(problem)
            except (DamagedEntry, FileNotFoundError):
                continue
        return found

    def verify(self, remove: bool = False) -> list[tuple[str, str]]:
        """Read every entry whole; the damaged ones and what is wrong with each. Deletes them only if asked to,
        and never a file that does not have a key's name.

        Raises:
            OSError: the directory cannot be read.
        """
        problems = []
        for path, _ in files.scan(self.root / "entries"):
            problem = files.problem_of(path, self._folder.signer())
            if problem is None:
                continue
            if remove and is_key(path.name):
                try:
                    files.remove(path)
                except OSError as error:
                    problem += f"; it could not be removed ({error.strerror})"
            problems.append((path.name, problem))
        return problems

    def clear(self) -> int:
        """Delete everything the store wrote, except locks that are held; how many entries that were.

        Raises:
            OSError: something cannot be deleted.
        """
        count = sum(files.remove(path) for path, _ in self._own("entries"))
        for folder in ("negative", "scratch"):
            for path, _ in self._own(folder):
                files.remove(path)
        for path, _ in self._own("locks"):
            files.remove_lock(path)
        files.remove(self.root / LAST_MISS)
        return count

    # Inside

    def _own(self, name: str) -> list[tuple[Path, os.stat_result]]:
        """The files in a folder that bear names the store gives: a wrong ``--dir`` must not cost anybody's files."""
        is_own = is_key if name == "entries" else _OWN_FILE.fullmatch
        return [(path, status) for path, status in files.scan(self.root / name) if is_own(path.name)]

    def _read_or_discard(self, key: str, path: Path, stream: Any, status: os.stat_result) -> StoredEntry | None:
        try:
            return read_entry(stream, status.st_size, key, self._folder.signer())
        except DamagedEntry as problem:
            # Another process may have rebuilt it since we opened it: delete only what we read.
            with suppress(OSError):
                if os.path.samestat(os.lstat(path), status):
                    self._folder.discard(path, problem)
            return None

    def _written(self, key: str) -> bool:
        """After an entry was written: make room, and forget what is no longer true of its key."""
        self._folder.foreign.pop(key, None)
        try:
            self._records.forget_negative(key)
            self._evict(keep=self.entry_path(key))
            self._drop_stale()
        except OSError as error:
            self._ledger.unusable("tidy up", error)
        return True

    def _acquire(self, key: str, timeout: float) -> filelock.BaseFileLock | None:
        path = self.root / "locks" / f"{self.entry_path(key).name}.lock"
        try:
            files.make_private(self.root, own_names=OWN_NAMES)
            files.make_private(path.parent)
            held = filelock.FileLock(path, mode=0o600, thread_local=False)
            held.acquire(timeout=timeout)
        except filelock.Timeout:
            logger.info("another process has been building %s for over %s s", key, timeout)
            return None
        except (OSError, StoreError) as error:
            self._ledger.unusable("lock in", error)
            return None
        return held

    def _evict(self, keep: Path) -> None:
        found = self._own("entries")
        excess = sum(status.st_size for _, status in found) - self.limit_bytes
        for path, status in sorted(found, key=lambda item: item[1].st_mtime_ns):
            if excess <= 0:
                return
            if path == keep:
                continue
            if files.remove(path):
                self._ledger.count("evicted")
                size = format_bytes(status.st_size)
                self._ledger.tell(
                    logging.INFO, ReasonKind.EVICTED, f"{path.name[:12]} ({size}), used longest ago", path.name
                )
            excess -= status.st_size

    def _drop_stale(self) -> None:
        """Delete what processes that died left half written, and negative entries nobody asked for again."""
        now = time.time()  # not the injected clock: it is compared with the file system's times
        for folder, age_s in (("scratch", STALE_SCRATCH_S), ("negative", MAX_NEGATIVE_S)):
            for path, status in self._own(folder):
                if now - status.st_mtime > age_s:
                    files.remove(path)
