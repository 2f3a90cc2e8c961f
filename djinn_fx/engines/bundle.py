"""Carry cache entries to another machine: a plain tar of entry files, each named by its key.

Reading trusts nothing: only the 512-byte member headers are parsed, no extension of the tar format, every size is
compared with the file's own before anything is read, and every entry's checksum is verified before it is kept. A
checksum does not say who made a bundle, and an entry is code that will be run: import only what you trust.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from djinn_fx.engines import store_files as files
from djinn_fx.engines.store import Store
from djinn_fx.engines.store_format import MAX_ENTRY_BYTES, DamagedEntry, is_key, read_entry
from djinn_fx.errors import StoreError

MAX_MEMBERS = 100_000
ALREADY_STORED = "already stored"
_BLOCK = tarfile.BLOCKSIZE


class Imported(NamedTuple):
    """How many entries an import stored, and (name, why) for each member it did not."""

    imported: int
    skipped: list[tuple[str, str]]


def export_bundle(store: Store, file: Path) -> int:
    """Write all whole entries to a tar file, replacing it; how many those are. Damaged entries are left out.

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
    """Store the entries of a bundle whose checksums are right; what is stored already stays as it is.

    Raises:
        StoreError: ``file`` is not a tar file.
        OSError: it cannot be read.
    """
    stored = {entry.key for entry in store.entries()}
    skipped: list[tuple[str, str]] = []
    count = nbytes = 0
    with file.open("rb") as stream:
        for name, size, problem in _members(stream, os.fstat(stream.fileno()).st_size):
            if problem is None and name in stored:
                problem = ALREADY_STORED
            if problem is None and nbytes + size > store.limit_bytes:
                problem = "the cache's limit would evict what was just imported"
            problem = problem or _keep(store, name, stream, size)
            if problem is not None:
                skipped.append((name, problem))
                continue
            stored.add(name)
            count, nbytes = count + 1, nbytes + size
    return Imported(count, skipped)


def _add(tar: tarfile.TarFile, store: Store, key: str) -> None:
    """Add one entry. Nothing of this machine (user, times) goes in, so equal caches give equal bundles."""
    stream, status = files.open_own(store.entry_path(key))
    with stream:
        read_entry(stream, status.st_size, key)
        stream.seek(0)
        member = tarfile.TarInfo(key)
        member.size, member.mode = status.st_size, 0o600
        tar.addfile(member, stream)


def _keep(store: Store, name: str, stream: BinaryIO, size: int) -> str | None:
    """Store the entry at the stream's position; why not, if it was not."""
    try:
        entry = read_entry(stream, size, name)
    except DamagedEntry as problem:
        return str(problem)
    if store.put(name, entry.header, entry.payload):
        return None
    return store.reasons[-1].detail if store.reasons else "the cache directory could not be written"


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
