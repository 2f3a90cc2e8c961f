"""The folder in which Inductor keeps its files: another one where that cannot be used. Part of Inductor's adapter.

It may be full or read-only, and a process that was stopped (Ctrl-Z, a debugger) may hold its locks: Inductor would
fail, or wait for ten minutes. Then the work is done once more in a temporary folder of this process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

from djinn_fx.errors import useful_line

log = logging.getLogger("djinn_fx.engines.inductor")

#: Seconds to wait for a lock of Inductor's. What they guard (a compiler's run, headers precompiled once a machine)
#: takes a few, more on a busy machine; who waited in vain does double work, no more.
LOCK_PATIENCE_S = 30
T = TypeVar("T")
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Wait for Inductor's locks only so long: then it raises."""
    from torch._inductor import codecache

    before = codecache.LOCK_TIMEOUT
    codecache.LOCK_TIMEOUT = min(before, LOCK_PATIENCE_S)
    try:
        yield
    finally:
        codecache.LOCK_TIMEOUT = before


def in_usable(work: Callable[[], T]) -> T:
    """Do something that needs the folder; once more in one of this process, if files were at fault.

    Raises:
        OSError: there is no place for one.
    """
    try:
        return work()
    except Exception as error:
        if not is_at_fault(error):
            raise
    with own_folder():
        return work()


def is_at_fault(error: BaseException | None) -> bool:
    """Whether something went wrong with files: a full disk, no permission, a lock that somebody holds."""
    cause = _of_files(error) or _unusable()
    if cause is not None:
        folder = os.environ.get(_VARIABLE, "")
        log.warning("Inductor's cache folder %s cannot be used (%s): a temporary one is", folder, useful_line(cause))
    return cause is not None


def _of_files(error: BaseException | None) -> OSError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError):
            return error
        seen.add(id(error))
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return None


def _unusable() -> OSError | None:
    """What is wrong with the folder: torch does not always say why it failed."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    try:
        with tempfile.TemporaryFile(dir=cache_dir()) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    """Inductor's files are in a folder of this process.

    Raises:
        OSError: there is no place for one.
    """
    folder, before = _own(os.getpid()), os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


@functools.cache
def _own(pid: int) -> str:
    folder = tempfile.mkdtemp(prefix="djinn_fx-inductor-")

    def remove() -> None:
        if os.getpid() == pid:  # not in a process that was forked from this one
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
