"""Carry cache entries to another machine: a plain tar of entry files, each named by its key.

Reading trusts nothing: only the 512-byte member headers are parsed, no extension of the tar format, every size is
compared with the file's own before anything is read, an entry is read piece by piece, and every entry's checksum is
verified before it is kept. A checksum does not say who made a bundle, and an entry is code that will be run. So bundles
carry no signatures, and importing, which signs with the importing user's key, is that user's word: import only what you
trust.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from djinn_fx.errors import StoreError
from djinn_fx.files.signing import signer
from djinn_fx.store import files
from djinn_fx.store.format import MAX_ENTRY_BYTES, DamagedEntry, Head, check_payload, is_key, read_head
from djinn_fx.store.store import Store

MAX_MEMBERS = 100_000
ALREADY_STORED = "already stored"
_BLOCK = tarfile.BLOCKSIZE


class Imported(NamedTuple):
    """How many entries an import stored, and (name, why) for each member it did not."""

    imported: int
    skipped: list[tuple[str, str]]


def export_bundle(store: Store, file: Path) -> int:
    """Write all whole entries of this user to a tar file, replacing it; how many those are. Others are left out.

    Raises:
        StoreError: there are more entries than a bundle may hold.
        OSError: the store cannot be read or the file cannot be written.
    """
    keys = sorted(entry.key for entry in store.entries())
    if len(keys) > MAX_MEMBERS:
        raise StoreError(f"the cache holds {len(keys)} entries, a bundle at most {MAX_MEMBERS}")
    partial = file.with_name(file.name + ".partial")
    count = 0
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key in keys:
                # An entry that another process evicts, or that turns out damaged, does not spoil the others.
                with suppress(FileNotFoundError, DamagedEntry):
                    _add(tar, store, key)
                    count += 1
        os.replace(partial, file)
    except BaseException:
        with suppress(OSError):
            files.remove(partial)
        raise
    return count


def import_bundle(store: Store, file: Path) -> Imported:
    """Store and sign the entries of a bundle whose checksums are right; what is stored already stays as it is.

    Raises:
        StoreError: ``file`` is not a tar file.
        OSError: it cannot be read.
    """
    intake = _Intake(store)
    with file.open("rb") as stream:
        for name, size, problem in _members(stream, os.fstat(stream.fileno()).st_size):
            intake.take(name, stream, size, problem)
    return intake.outcome()


def import_folder(store: Store, folder: Path) -> Imported:
    """Store and sign the entries of another cache directory, or those of this one that somebody else wrote.

    Raises:
        OSError: the directory cannot be read.
    """
    intake = _Intake(store)
    for path, _ in files.scan(folder / "entries")[:MAX_MEMBERS]:
        problem = None if is_key(path.name) else "its name is not a cache key"
        try:
            stream, status = files.open_own(path)
            with stream:
                intake.take(path.name, stream, status.st_size, problem)
        except (DamagedEntry, OSError) as error:
            intake.skipped.append((path.name, str(error)))
    return intake.outcome()


class _Intake:
    """What is taken in at one time: no more than the cache may hold is read, let alone kept.

    Args:
        store: that takes it in.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored = {entry.key for entry in store.entries()}
        self._count = self._nbytes = 0
        self.skipped: list[tuple[str, str]] = []

    def take(self, name: str, stream: BinaryIO, nbytes: int, problem: str | None) -> None:
        """Take in the entry at the stream's position, unless there is a problem with it already."""
        if problem is None and name in self._stored:
            problem = ALREADY_STORED
        if problem is None and self._nbytes + nbytes > self._store.limit_bytes:
            problem = "the cache's limit would evict what was just imported"
        if problem is None:
            self._nbytes += nbytes
            problem = self._store.adopt(name, stream, nbytes)
        if problem is not None:
            self.skipped.append((name, problem))
            return
        self._stored.add(name)
        self._count += 1

    def outcome(self) -> Imported:
        """How it went."""
        return Imported(self._count, self.skipped)


def _add(tar: tarfile.TarFile, store: Store, key: str) -> None:
    """Add one entry. Nothing of this machine (user, times, signature) goes in, so equal caches give equal bundles."""
    stream, status = files.open_own(store.entry_path(key))
    with stream:
        head = read_head(stream, status.st_size, key)
        head.check_signed(key, signer())
        check_payload(stream, head)
        stream.seek(-head.payload_bytes, os.SEEK_END)
        member = tarfile.TarInfo(key)
        member.size, member.mode = status.st_size, 0o600
        tar.addfile(member, _Unsigned(head, key, stream))


class _Unsigned(io.RawIOBase):
    """An entry without its signature, as a file that can be read once.

    Args:
        head: of the entry.
        key: of the entry.
        payload: stands where the payload begins.
    """

    def __init__(self, head: Head, key: str, payload: BinaryIO) -> None:
        self._parts: list[BinaryIO] = [io.BytesIO(head.prefix(key, None)), io.BytesIO(head.raw), payload]

    def read(self, size: int = -1) -> bytes:
        """The next bytes, ``size`` of them unless it ends before."""
        pieces = []
        for part in self._parts:
            pieces.append(part.read(size))
            size -= len(pieces[-1])
        return b"".join(pieces)


def _members(stream: BinaryIO, nbytes: int) -> Iterator[tuple[str, int, str | None]]:
    """Name, size and problem (None if it may be an entry) of each member; the stream stands at the member's data.

    Headers are decoded one by one instead of opened with tarfile: its reader follows long-name and pax records and
    reserves whatever memory they ask for.
    """
    position = 0
    for number in range(MAX_MEMBERS + 1):
        stream.seek(position)
        block = stream.read(_BLOCK)
        if not block.strip(b"\0"):
            return  # the end mark, or the end of a file without one
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            if number == 0:
                raise StoreError(f"{stream.name} is not a bundle of cache entries: no tar file ({error})") from error
            yield "(rest)", 0, f"no tar header where one should be ({error})"
            return
        position += _BLOCK
        if number == MAX_MEMBERS:
            yield "(rest)", 0, f"a bundle holds at most {MAX_MEMBERS} members"
        elif member.size < 0 or position + member.size > nbytes:
            yield member.name, 0, "it says it is larger than the rest of the file"
            return
        else:
            yield member.name, member.size, _member_problem(member)
        position += -(-member.size // _BLOCK) * _BLOCK


def _member_problem(member: tarfile.TarInfo) -> str | None:
    if not member.isreg():
        return "not a regular file"
    if not is_key(member.name):
        return "its name is not a cache key"
    if member.size > MAX_ENTRY_BYTES:
        return "larger than an entry may be"
    return None
