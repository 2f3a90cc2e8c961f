"""Weights that lie in a file: while packed copies answer, their memory is the system's, and who reads them has it back.

With ``keep_weights: packed`` the pages of weights are replaced, where they are, by private views of a file without a
name. Nothing else changes: the tensors, their addresses, who shares their memory. A read brings a page back from the
file; a write makes the page memory again, as of any private view, and is seen as ever (``write_protection.py``). So
``state_dict``, numpy, training and raw pointers need not know. When nobody looks at the file's pages any more they are
given back to the system (MADV_PAGEOUT, which leaves alone what differs from the file).

A page is replaced in one step (``mmap`` over it), after its bytes were written to the file. Who writes to it meanwhile
waits (``userfaultfd``). That may be a thread that holds Python's lock, which must then not be waited for: so what is
done in that time is a list of system calls, run through by C code that does not let go of the lock. Should one of them
fail, nothing is lost either: the pages that were replaced are kept by a pipe until then (``vmsplice`` lends pages and
copies none). Both need pages that a write does not exchange for others: such as were never written, or are shared with
a forked process, are made the process's own before (MADV_POPULATE_WRITE), and forks wait. What is written into a weight
later stays in memory.

A block that is freed may still be such a view, where no session was left to see its weights go: it then holds other
bytes than it left there. glibc takes no memory for zeros that it has handed out before; other allocators may, and so
with them nothing is moved.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import logging
import os
import platform
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from djinn_fx.engines.bound.holders import extent_of
from djinn_fx.engines.bound.mappings import Mapping, Mappings, Span
from djinn_fx.engines.bound.userfaultfd import PAGE, Barrier
from djinn_fx.errors import StoreError
from djinn_fx.files.private import own_folder

log = logging.getLogger("djinn_fx.engines")

#: Smaller weights stay: a mapping each is worth more than their pages.
MIN_BYTES = 64 << 10
#: Pages that a pipe can hold are replaced at a time.
_STRETCH = 1 << 20
_F_SETPIPE_SZ = 1031
_READ_WRITE, _PRIVATE, _FIXED, _ANONYMOUS = 0x1 | 0x2, 0x02, 0x10, 0x20
_PAGEOUT, _POPULATE_READ, _POPULATE_WRITE = 21, 22, 23
#: Numbers of the system calls ioctl, pwrite and mmap.
_CALLS = {"x86_64": (16, 18, 9), "aarch64": (29, 68, 222), "riscv64": (29, 68, 222)}
#: The numbers by which statfs tells file systems in memory: tmpfs, ramfs.
_IN_MEMORY = (0x01021994, 0x858458F6)


class Dead(Protocol):
    """Holds weights, some of which nobody else does."""

    @property
    def left(self) -> Sequence[torch.Tensor]:
        """Those."""
        ...


#: The stretches of memory that were found to lie in files, or were put there.
_FILED: set[Span] = set()
#: Whose weights are to be forgotten. Only :func:`page_out` takes them.
_DEAD: queue.SimpleQueue[Dead] = queue.SimpleQueue()
_LOCK = threading.Lock()
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class _Piece(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


def move(weights: Sequence[torch.Tensor], folder: Path) -> str | None:
    """Have the memory of these weights lie in a file.

    Args:
        weights: dense tensors on the CPU.
        folder: of the file, on a disk.

    Returns:
        Why some of them stay in memory; None if none does but the small ones.
    """
    with _LOCK:
        spans = sorted({pages for one in weights if (pages := _whole_pages(extent_of(one))) is not None})
        mappings = Mappings(spans)
        left = [part for span in _apart(spans) for part in _in_memory(span, mappings)]
        _FILED.update(spans)
        if not left:
            return None
        why = _why_not() or _why_not_these(weights, left, mappings)
        if why is not None:
            return why
        try:
            own_folder(folder)
            if _file_system(folder) in _IN_MEMORY:
                return f"the cache folder {folder} lies in memory"
            _into_file(left, folder)
        except StoreError as error:
            return str(error)
        except OSError as error:
            return f"{folder}: {error.strerror or error}"
    return None


@contextmanager
def present(spans: Iterable[Span], mappings: Mappings) -> Iterator[None]:
    """Meanwhile pages of files are there: one that is brought back later looks as if it had been written.

    Args:
        spans: whole pages.
        mappings: that they lie on.
    """
    with _LOCK:
        for start, end in spans:
            if any(one.file for one in mappings.over((start, end))):
                _LIBRARY.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _POPULATE_READ)
        yield


def page_out() -> None:
    """Give back the pages of files that show weights; reading brings them back."""
    with _LOCK:
        _forget_them()
        mappings = Mappings(_FILED)
        for span in list(_FILED):
            parts = mappings.over(span)
            if not parts or not all(one.file and not one.shared for one in parts):
                _FILED.discard(span)  # freed meanwhile, and something else may lie there; or it could not be moved
                continue
            start, end = span
            _LIBRARY.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGEOUT)


def forget(dead: Dead) -> None:
    """At the next :func:`page_out`, have weights that nobody will read again lie in no file any more.

    Their memory is all zeros then. May be called in the middle of anything.
    """
    _DEAD.put(dead)


def _forget_them() -> None:
    while not _DEAD.empty():
        for span in [pages for one in _DEAD.get().left if (pages := _whole_pages(extent_of(one))) in _FILED]:
            _FILED.discard(span)
            parts = Mappings([span]).over(span)
            if parts and all(one.file and not one.shared for one in parts):
                start, end = span
                _LIBRARY.mmap(start, end - start, _READ_WRITE, _PRIVATE | _FIXED | _ANONYMOUS, -1, 0)


def _whole_pages(extent: Span) -> Span | None:
    start, end = -(-extent[0] // PAGE) * PAGE, extent[1] // PAGE * PAGE
    return (start, end) if end - start >= MIN_BYTES else None


def _apart(spans: Sequence[Span]) -> Iterator[Span]:
    """The same pages, each once: weights may be views of each other. In order."""
    reached = 0
    for start, end in spans:
        if end > max(start, reached):
            yield max(start, reached), end
        reached = max(reached, end)


def _in_memory(span: Span, mappings: Mappings) -> Iterator[Span]:
    """What of these pages does not lie in a file."""
    for one in mappings.over(span):
        if not one.file:
            yield max(span[0], one.start), min(span[1], one.end)


# Whether it can be


def _why_not() -> str | None:
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if platform.machine() not in _CALLS:
        return f"it is not known for {platform.machine()}"
    if not _memory_is_glibcs():
        return "memory comes from another allocator than glibc's"
    try:
        Barrier().close()
    except OSError as error:
        return f"writers cannot be made to wait: userfaultfd: {error.strerror or error}"
    return None


def _why_not_these(weights: Sequence[torch.Tensor], spans: Sequence[Span], mappings: Mappings) -> str | None:
    if any(one.is_pinned() for one in weights):
        return "their memory is pinned for a device"
    if any(not _plain(one) for span in spans for one in mappings.over(span)):
        return "other processes share their memory"
    return None


def _plain(mapping: Mapping) -> bool:
    """Whether it is this process's own memory, or a view of its own of a file."""
    named = mapping.name and mapping.name != "[heap]" and not mapping.name.startswith("[anon:")
    return not mapping.shared and (mapping.file or not named)


def _memory_is_glibcs() -> bool:
    address = ctypes.cast(_LIBRARY.malloc, ctypes.c_void_p).value or 0
    found = Mappings([(address, address + 1)]).known
    return bool(found) and os.path.basename(found[0].name).startswith(("libc.so", "libc-2"))


def _file_system(folder: Path) -> int:
    """The number that ``statfs`` calls its type; 0 where it does not say."""
    answer = (ctypes.c_long * 64)()
    failed = _LIBRARY.statfs(os.fsencode(folder), ctypes.byref(answer))
    return 0 if failed else int(answer[0])


# Moving

_LIBRARY = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    _LIBRARY.mmap.restype, _LIBRARY.vmsplice.restype = ctypes.c_void_p, ctypes.c_ssize_t
    _LIBRARY.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    _LIBRARY.vmsplice.argtypes = [ctypes.c_int, ctypes.POINTER(_Piece), ctypes.c_ulong, ctypes.c_uint]
#: The same, called without letting go of Python's lock.
_HOLDING = ctypes.PyDLL(None)
_HOLDING.syscall.restype, _HOLDING.syscall.argtypes = ctypes.c_long, [ctypes.c_long] * 7


def _into_file(spans: Sequence[Span], folder: Path) -> None:
    """Replace these pages by those of a file.

    Raises:
        OSError: the disk is full, or the system cannot. What was not replaced stays as it is.
    """
    barrier = Barrier()
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    out, into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        stretch = fcntl.fcntl(into, _F_SETPIPE_SZ, _STRETCH) // PAGE * PAGE
        os.posix_fallocate(file, 0, sum(end - start for start, end in spans))
        offset = 0
        for start, end in spans:
            for at in range(start, end, stretch):
                piece = _Piece(at, min(stretch, end - at))
                _replace(piece, file, offset, out, into, barrier)
                offset += piece.bytes
        os.fdatasync(file)  # only pages that are on the disk can be given back
    finally:
        barrier.close()
        for descriptor in (file, out, into):
            os.close(descriptor)


def _replace(piece: _Piece, file: int, offset: int, out: int, into: int, barrier: Barrier) -> None:
    """One stretch; see the module's text."""
    at, count = piece.start, piece.bytes
    if _LIBRARY.madvise(ctypes.c_void_p(at), ctypes.c_size_t(count), _POPULATE_WRITE):
        raise _last_error()
    memory = (ctypes.c_char * count).from_address(at)
    if os.pwrite(file, memory, offset) != count:  # so that it goes quickly when others wait
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    barrier.register(at, at + count)
    try:
        lent = _LIBRARY.vmsplice(into, ctypes.byref(piece), 1, 0)
        if lent != count:
            _all_of(out, max(lent, 0))
            raise _last_error() if lent < 0 else OSError(errno.EAGAIN, "a pipe does not take what it holds")
        _exchange(piece, file, offset, barrier)
    except BaseException:
        barrier.unregister(at, at + count)
        raise
    last = _all_of(out, count)
    if last != memory.raw:
        _catch_up(memory, last, os.pread(file, count, offset))


def _exchange(piece: _Piece, file: int, offset: int, barrier: Barrier) -> None:
    """Write pages into the file and put the file in their place, while who writes to them waits.

    Raises:
        OSError: the pages are as they were.
    """
    at, count = piece.start, piece.bytes
    ioctl, pwrite, mmap = _CALLS[platform.machine()]
    (protect, protected), (wake, woken) = barrier.requests(at, at + count)
    given, told = ctypes.create_string_buffer(protected), ctypes.create_string_buffer(woken)
    calls = [
        (ioctl, barrier.descriptor, protect, ctypes.addressof(given), 0, 0, 0),
        (pwrite, file, at, count, offset, 0, 0),
        (mmap, at, count, _READ_WRITE, _PRIVATE | _FIXED, file, offset),
        (ioctl, barrier.descriptor, wake, ctypes.addressof(told), 0, 0, 0),
    ]
    arguments, collects = list(zip(*calls, strict=True)), gc.isenabled()
    gc.disable()  # it could run Python code in between
    try:
        results = list(map(_HOLDING.syscall, *arguments))
    finally:
        if collects:
            gc.enable()
    if results[2] != at:
        raise OSError(errno.ENOMEM, "pages could not be replaced")


def _last_error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _all_of(pipe: int, count: int) -> bytes:
    parts = []
    while count:
        parts.append(os.read(pipe, count))
        count -= len(parts[-1])
    return b"".join(parts)


def _catch_up(memory: ctypes.Array[ctypes.c_char], last: bytes, filed: bytes) -> None:
    """Write what was written into replaced pages after they were copied, but where something newer stands by now."""
    old, new = (torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in (filed, last))
    now = torch.frombuffer(memory, dtype=torch.uint8)
    for place in ((old != new) & (now == old)).nonzero().flatten().tolist():
        now[place] = new[place]
