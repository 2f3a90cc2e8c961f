"""File operations the store trusts: private directories, files opened without following links."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from djinn_fx.errors import StoreError
from djinn_fx.files.signing import NotOurs, Signer, unseal
from djinn_fx.store.format import DamagedEntry, ForeignEntry, check_payload, is_key, read_head

# Windows has neither owners nor these flags; its user folders are private by default.
_POSIX = os.name == "posix"
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Without it, opening a named pipe somebody put in an entry's place would wait for ever.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


def check_private(path: Path) -> bool:
    """Whether the directory exists and is safe to use; only its last component may not be a link.

    Raises:
        StoreError: it is a link, not a directory, or another user's.
        OSError: it cannot be looked at.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(status.st_mode):
        raise StoreError(f"{path} is a symbolic link: give the directory it points to, or remove the link")
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path} is not a directory: remove it, or choose another cache directory")
    if _POSIX and status.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user {status.st_uid}, not to you (user {os.geteuid()}): what it holds would be run "
            "as you, so choose a directory of your own with DJINN_CACHE_DIR"
        )
    return True


def make_private(path: Path, own_names: frozenset[str] | None = None) -> None:
    """Create a directory with mode 0700, or tighten an existing one to it.

    Args:
        path: the directory; its parents are created with default modes.
        own_names: if given, a directory open to others is tightened only if it holds nothing besides these names:
            a cache directory set to a shared place (``/tmp``, a home) must not lock everyone out of it.

    Raises:
        StoreError: unsafe, see :func:`check_private`, or open to others and in use for something else.
        OSError: it cannot be created or changed.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    check_private(path)
    if not _POSIX or not stat.S_IMODE(os.lstat(path).st_mode) & 0o077:
        return
    if own_names is not None and not own_names.issuperset(os.listdir(path)):
        raise StoreError(
            f"{path} is open to other users and holds other files: choose an empty directory, or chmod 700 it"
        )
    os.chmod(path, 0o700)


def open_own(path: Path) -> tuple[BinaryIO, os.stat_result]:
    """Open a regular file of this user for reading, and its status.

    Raises:
        DamagedEntry: a link, not a regular file, or another user's.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_FOLLOW | _NO_WAIT)
    except OSError as error:
        if path.is_symlink():
            raise DamagedEntry("it is a symbolic link") from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or (_POSIX and status.st_uid != os.geteuid()):
        os.close(descriptor)
        raise DamagedEntry("it is not a regular file of this user")
    return os.fdopen(descriptor, "rb"), status


def read_small(path: Path, max_bytes: int) -> bytes:
    """A small file of this user.

    Raises:
        DamagedEntry: larger than ``max_bytes``, or see :func:`open_own`.
        OSError: it cannot be read.
    """
    stream, status = open_own(path)
    with stream:
        if status.st_size > max_bytes:
            raise DamagedEntry(f"{status.st_size} bytes are too many")
        return stream.read(max_bytes)


def read_record(path: Path, max_bytes: int, purpose: str) -> dict[str, Any]:
    """A JSON object in a signed file of this user.

    Raises:
        ForeignEntry: it is not signed with this user's key.
        DamagedEntry: no such file, or see :func:`read_small`.
        OSError: it cannot be read.
    """
    try:
        record = unseal(purpose, read_small(path, max_bytes))
    except NotOurs as error:
        raise ForeignEntry(str(error)) from error
    except DamagedEntry:
        raise
    except ValueError as error:
        raise DamagedEntry(str(error)) from error
    if not isinstance(record, dict):
        raise DamagedEntry("not a JSON object")
    return record


def remove(path: Path) -> bool:
    """Delete a file; False if it was gone already.

    Raises:
        OSError: it cannot be deleted.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_lock(path: Path) -> None:
    """Delete a lock file while holding it, so that nobody waits on a file that is no longer there; not if it is held.

    Raises:
        OSError: it cannot be locked or deleted.
    """
    lock = filelock.FileLock(path, mode=0o600, thread_local=False)
    with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=0):
        remove(path)


def scan(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The files in a directory and their status, links not followed; nothing if there is no such directory.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as items:
        for item in items:
            # Other processes delete entries while we look.
            with contextlib.suppress(FileNotFoundError):
                found.append((Path(item.path), item.stat(follow_symlinks=False)))
    return sorted(found)


def problem_of(path: Path, signer: Signer) -> str | None:
    """What is wrong with an entry's file, or None. One deleted meanwhile has nothing wrong."""
    if not is_key(path.name):
        return "its name is not a cache key"
    try:
        stream, status = open_own(path)
        with stream:
            head = read_head(stream, status.st_size, path.name)
            head.check_signed(path.name, signer)
            head.header()
            check_payload(stream, head)
    except FileNotFoundError:
        return None
    except (DamagedEntry, OSError) as problem:
        return str(problem)
    return None
