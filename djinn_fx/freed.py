"""Memory that was freed, and that the C library keeps for later with what was last written in it: the system's again.

glibc's ``malloc_trim`` (``pool/procfs.py``) gives back what is free between blocks that are in use, in all its arenas.
What is free at the end of one it gives back in that of the first thread alone, so a thread that computed something
large leaves up to 64 MB there. Only a thread of that arena comes by them: it takes them once more, piece by piece, and
tells the system that nobody needs what is in there. An arena whose thread is over goes to the next one that is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import threading

#: What is free is taken in blocks of so many bytes: smaller ones ``malloc_trim`` finds, larger ones may be no arena's.
_BLOCK = 1 << 20
#: After so many that nothing was left in there is no more to find; more than ``_MOST`` are not taken.
_EMPTY, _MOST = 32, 256
#: So many threads at once come by as many arenas whose threads are over; glibc makes 8 a processor at most.
_THREADS = 8
_PAGE = mmap.PAGESIZE


def give_back_own() -> int:
    """Give back what is free in this thread's arena. Takes a millisecond at most.

    Returns:
        How many blocks something was left in.
    """
    if _LIBRARY is None:
        return 0
    blocks: list[int] = []
    found = 0
    try:
        while len(blocks) - found < _EMPTY and len(blocks) < _MOST:
            at = _LIBRARY.malloc(_BLOCK)
            if not at:
                break
            blocks.append(at)
            found += empty(at, _BLOCK)
    finally:
        for at in blocks:
            _LIBRARY.free(at)
    return found


def give_back_idle() -> None:
    """Give back what is free in the arenas of threads that are over: other threads have freed it since."""
    if _LIBRARY is None:
        return
    done = threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        give_back_own()
        done.wait()  # the arena is the next thread's only once this one is over

    try:
        with contextlib.suppress(RuntimeError):  # no more threads can be started
            for _ in range(_THREADS):
                thread = threading.Thread(target=work, name="djinn gives back", daemon=True)
                thread.start()
                threads.append(thread)
    finally:
        done.set()
    for thread in threads:
        thread.join()


def empty(start: int, nbytes: int) -> bool:
    """Give back the pages of a block that nobody has written to yet, which may be left over from an earlier one.

    Args:
        start: its address.
        nbytes: its size.

    Returns:
        Whether there were any.
    """
    begin, end = -(-start // _PAGE) * _PAGE, (start + nbytes) // _PAGE * _PAGE
    if _LIBRARY is None or end <= begin:
        return False
    pages = ctypes.create_string_buffer((end - begin) // _PAGE)
    if _LIBRARY.mincore(begin, end - begin, pages) or not any(one & 1 for one in pages.raw):
        return False
    return not _LIBRARY.madvise(begin, end - begin, mmap.MADV_DONTNEED)


def _library() -> ctypes.PyDLL | None:
    """The C library, called without letting go of the interpreter: each call takes a microsecond."""
    if sys.platform != "linux":
        return None
    library = ctypes.PyDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    return library


_LIBRARY = _library()
