"""Files of this user alone: where they go, and how they are written. What the disk cache, profiles and key share."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from djinn_fx.errors import StoreError

# Windows has neither owners nor these flags; its user folders are private by default.
_POSIX = os.name == "posix"
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def default_cache_dir() -> Path:
    """``DJINN_CACHE_DIR`` if set and not empty, else the platform's cache folder for djinn_fx."""
    chosen = os.environ.get("DJINN_CACHE_DIR")
    folder = os.path.expanduser(chosen) if chosen else platformdirs.user_cache_path("djinn_fx", appauthor=False)
    return Path(folder).absolute()


def default_config_dir() -> Path:
    """``DJINN_CONFIG_DIR`` if set and not empty, else the platform's configuration folder for djinn_fx.

    Only the environment can move it, no configuration file: the key that says what may be run lies there.
    """
    chosen = os.environ.get("DJINN_CONFIG_DIR")
    folder = os.path.expanduser(chosen) if chosen else platformdirs.user_config_path("djinn_fx", appauthor=False)
    return Path(folder).absolute()


def own_folder(folder: Path, remedy: str = "choose another with DJINN_CACHE_DIR") -> None:
    """Make the folder, for this user alone.

    Args:
        folder: whose parents are made too.
        remedy: what the user can do instead of removing what is in the way.

    Raises:
        StoreError: it is a link, no folder, or another user's.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is not a folder: remove it, or {remedy}")
    if _POSIX and status.st_uid != os.geteuid():
        raise StoreError(f"{folder} belongs to user {status.st_uid}: {remedy}")
    if _POSIX and stat.S_IMODE(status.st_mode) & 0o077:
        os.chmod(folder, 0o700)


def write_atomic(target: Path, pieces: Iterable[bytes], scratch: Path) -> None:
    """Write a file of mode 0600 so that readers see the old one or the whole new one, also after a power cut.

    Args:
        target: the file.
        pieces: its contents.
        scratch: directory on the same file system for the file while it is written.

    Raises:
        OSError: nothing was changed, and nothing is left behind.
    """
    temporary = scratch / f"{target.name}.{os.getpid()}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _NO_FOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    """Make a rename survive a power cut. Some file systems refuse this; the entry is whole all the same."""
    if not _POSIX:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
