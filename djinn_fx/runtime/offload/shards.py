"""Reading byte ranges of files past the page cache, and noticing that a file changed. No torch."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from djinn_fx import threads
from djinn_fx.errors import ModelFileError

#: What O_DIRECT asks of offsets, lengths and addresses: a page suits every file system.
BLOCK = 4096
#: Bytes of one read: large enough for a disk's best rate, small enough to stop soon.
CHUNK = 2 << 20


def span_of(start: int, size: int) -> tuple[int, int]:
    """First byte and length of the whole blocks around a range."""
    first = start - start % BLOCK
    return first, (start + size + BLOCK - 1) // BLOCK * BLOCK - first if size else 0


def new_memory(size: int) -> mmap.mmap:
    """Memory of this process alone that begins on a page, given back to the system when nobody holds it any more."""
    memory = mmap.mmap(-1, max(size, BLOCK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # else forks would share it
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)  # fewer pages to pin for each read, and to look up for each product
    return memory


class Shards:
    """Files that are read at given places, as they were when this was made.

    Args:
        files: to be read.

    Attributes:
        direct: by file, whether it is read past the page cache; else its pages are dropped after each read.
        read_bytes: how many have been read so far.
        read_s: seconds that took, of all threads together.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.read_bytes, self.read_s = 0, 0.0
        self._counting = threads.new_lock()
        self._handles: list[int] = []
        weakref.finalize(self, _close, self._handles)
        self.direct: list[bool] = []
        try:
            for file in self.files:
                handle, direct = _opened(file)
                self._handles.append(handle)
                self.direct.append(direct)
            self._states = [_state(os.fstat(handle)) for handle in self._handles]
        except OSError as error:
            self.close()
            raise ModelFileError(f"cannot open the weights: {error}") from error

    def close(self) -> None:
        """Let go of the files."""
        _close(self._handles)

    def check(self) -> None:
        """Look whether every file is what it was.

        Raises:
            ModelFileError: one was written, cut, replaced or removed.
        """
        for number in range(len(self.files)):
            self._check(number)

    def read(
        self, number: int, start: int, size: int, into: memoryview, stopped: Callable[[], bool] = lambda: False
    ) -> int | None:
        """Read the blocks around a range of a file.

        Args:
            number: of the file.
            start: first byte.
            size: how many.
            into: memory that begins on a block and is long enough for :func:`span_of` the range.
            stopped: asked between chunks.

        Returns:
            Where the range begins in the memory; None if it was stopped.

        Raises:
            ModelFileError: the file is shorter than it was, has changed, or cannot be read.
        """
        first, length = span_of(start, size)
        wanted = start + size - first if size else 0
        begun, done = time.perf_counter(), 0
        while done < wanted:
            if stopped():
                return None
            here = into[done : min(done + CHUNK, length)]
            got = self._read(number, here, first + done)
            if got <= 0 or (got % BLOCK and done + got < wanted):
                raise ModelFileError(f"{self.files[number]} was cut short while the model was in use: load it again")
            done += got
        if not self.direct[number]:
            os.posix_fadvise(self._handles[number], first, length, os.POSIX_FADV_DONTNEED)
        self._check(number)
        with self._counting:
            self.read_bytes += size
            self.read_s += time.perf_counter() - begun
        return start - first

    def differ(self, one: tuple[int, int], other: tuple[int, int], size: int) -> bool:
        """Whether two ranges, each a file's number and a first byte, hold different bytes."""
        memory = [memoryview(new_memory(CHUNK + BLOCK)) for _ in range(2)]
        for done in range(0, size, CHUNK):
            count = min(CHUNK, size - done)
            parts = []
            for (number, start), into in zip((one, other), memory, strict=True):
                begins = self.read(number, start + done, count, into)
                assert begins is not None
                parts.append(into[begins : begins + count])
            if parts[0] != parts[1]:
                return True
        return False

    def _read(self, number: int, into: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._handles[number], [into], offset)
        except OSError as error:
            if not (error.errno == errno.EINVAL and self.direct[number]):
                raise ModelFileError(f"{self.files[number]} cannot be read: {error}") from error
        # A file system that opens a file for direct reads, and then has none.
        self.direct[number] = False
        handle, self._handles[number] = self._handles[number], os.open(self.files[number], os.O_RDONLY | os.O_CLOEXEC)
        os.close(handle)
        return os.preadv(self._handles[number], [into], offset)

    def _check(self, number: int) -> None:
        file = self.files[number]
        try:
            states = (_state(os.fstat(self._handles[number])), _state(os.stat(file)))
        except OSError as error:
            raise ModelFileError(f"{file} is gone while the model was in use ({error}): load it again") from error
        if any(state != self._states[number] for state in states):
            raise ModelFileError(f"{file} was written or replaced while the model was in use: load it again")


def _close(handles: list[int]) -> None:
    while handles:
        os.close(handles.pop())


def _opened(file: Path) -> tuple[int, bool]:
    """A handle, and whether it reads past the page cache."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    direct = getattr(os, "O_DIRECT", 0)
    if direct:
        with contextlib.suppress(OSError):
            return os.open(file, flags | direct), True
    return os.open(file, flags), False


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
