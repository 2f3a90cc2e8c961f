"""The folder in which Inductor keeps its files: another one where that cannot be used. Part of Inductor's adapter.

It may be full or read-only, and a process that was stopped (Ctrl-Z, a debugger) may hold its locks: Inductor would
fail, or wait for ten minutes. Then the work is done once more in a temporary folder of this process.

A compiler whose process was killed leaves a library that is empty or broken off, and Inductor takes each one that is
there for done, in every process and for ever. Such a one is taken away, and the work is done once more.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from djinn_fx.errors import useful_line

log = logging.getLogger("djinn_fx.engines.inductor")

#: Seconds to wait for a lock of Inductor's. What they guard (a compiler's run, headers precompiled once a machine)
#: takes a few, more on a busy machine; who waited in vain does double work, no more.
LOCK_PATIENCE_S = 30
T = TypeVar("T")
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
#: What a compiler or a linker has written, named in an error's text.
_COMPILED = re.compile(r"/[^\s:'\"]+\.s?o\b")
#: What of ELF's header is looked at: its mark; the place of the table of sections, the size of a row, how many.
_ELF = struct.Struct("<4s36xQ10xHH2x")


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
    """Do something that needs the folder; once more if files were at fault: without those that are broken off, or
    in a folder of this process.

    Raises:
        OSError: there is no place for one.
    """
    try:
        return work()
    except Exception as error:
        if _stumps_removed(error):
            again: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        elif is_at_fault(error):
            again = own_folder()
        else:
            raise
    with again:
        return work()


def _stumps_removed(error: BaseException) -> bool:
    """Whether the error names something compiled that is broken off in the folder; it is gone then."""
    named = {Path(name) for one in _chain(error) for name in _COMPILED.findall(str(one))}
    stumps = []
    with contextlib.suppress(OSError):  # what cannot be read or removed is the folder's fault, see below
        stumps = [path for path in named if path.is_relative_to(cache_folder()) and path.exists() and _broken_off(path)]
        for path in stumps:
            log.warning("%s is broken off, its compiler was killed: it is compiled again", path)
            path.unlink(missing_ok=True)
    return bool(stumps)


def _broken_off(path: Path) -> bool:
    """Whether a compiled file has less than its header says. The table of sections is the last thing in it."""
    content = path.read_bytes()
    if len(content) < _ELF.size:
        return True
    mark, place, size, count = _ELF.unpack_from(content)
    return bool(mark != b"\x7fELF" or place + size * count > len(content))


def is_at_fault(error: BaseException | None) -> bool:
    """Whether something went wrong with files: a full disk, no permission, a lock that somebody holds."""
    cause = _of_files(error) or _unusable()
    if cause is not None:
        folder = os.environ.get(_VARIABLE, "")
        log.warning("Inductor's cache folder %s cannot be used (%s): a temporary one is", folder, useful_line(cause))
    return cause is not None


def _of_files(error: BaseException | None) -> OSError | None:
    return next((one for one in _chain(error) if isinstance(one, OSError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__


def _unusable() -> OSError | None:
    """What is wrong with the folder: torch does not always say why it failed."""
    try:
        with tempfile.TemporaryFile(dir=cache_folder()) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return error
    return None


def cache_folder() -> Path:
    """Where Inductor keeps its files now."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()).absolute()


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
