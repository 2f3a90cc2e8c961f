"""Freed memory that the C library keeps: what nobody has written to since is the system's again."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from typing import Any

import pytest

from djinn_fx import freed, threads
from tests.alone import alone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other C libraries keep nothing to speak of")

PAGE = mmap.PAGESIZE


def resident(start: int, nbytes: int) -> int:
    """How many of a block's whole pages are in memory."""
    begin, end = -(-start // PAGE) * PAGE, (start + nbytes) // PAGE * PAGE
    pages = ctypes.create_string_buffer((end - begin) // PAGE)
    library: Any = ctypes.CDLL(None)
    assert library.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), pages) == 0
    return sum(one & 1 for one in pages.raw)


def test_pages_of_a_block_go_and_what_lies_beside_it_stays() -> None:
    memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert freed.empty(start + 100, 6 * PAGE)
    assert resident(start, 8 * PAGE) == 8 - 5
    assert memory[:PAGE] == b"x" * PAGE
    assert memory[6 * PAGE :] == b"x" * 2 * PAGE
    assert not freed.empty(start + 100, 6 * PAGE)
    assert not freed.empty(start + 100, PAGE)


def left_in_an_arena() -> None:
    """Write to 16 MB that lie in this thread's arena, and free them."""
    library: Any = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    # The first raises the size from which on memory is no arena's.
    for size, count in ((24 << 20, 1), (64 << 10, 256)):
        blocks = [library.malloc(ctypes.c_size_t(size)) for _ in range(count)]
        for at in blocks:
            ctypes.memset(at, 1, size)
        for at in blocks:
            library.free(ctypes.c_void_p(at))


def found_twice() -> str:
    """Have a thread give back twice what it has freed."""
    found: list[int] = []

    def work() -> None:
        left_in_an_arena()
        found.extend(freed.give_back_own() for _ in range(2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return " ".join(map(str, found))


def test_what_a_thread_has_freed_is_found_once() -> None:
    first, second = map(int, alone(found_twice).split())
    assert first >= 12
    assert second == 0


def found_at_the_end() -> str:
    """Have a thread of ours compute something large; what it gives back when it is over, each time."""
    found: list[int] = []
    give_back = freed.give_back_own
    threads.give_back_own = lambda: found.append(give_back())
    thread = threads.start_thread(left_in_an_arena, "computes")
    assert thread is not None
    thread.join()
    return " ".join(map(str, found))


def test_a_thread_of_ours_leaves_nothing() -> None:
    (given_back,) = map(int, alone(found_at_the_end).split())
    assert given_back >= 12


def left_by_a_thread_that_is_over() -> int:
    """Have a thread take memory that is freed once it is over, and give that back; how many of its pages are left."""
    blocks: list[int] = []
    library: Any = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    left_in_an_arena()  # from here on blocks of this size are an arena's

    def work() -> None:
        blocks.extend(library.malloc(ctypes.c_size_t(64 << 10)) for _ in range(256))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for at in blocks:
        ctypes.memset(at, 1, 64 << 10)
    for at in blocks[1:]:
        library.free(ctypes.c_void_p(at))
    freed.give_back_idle()
    return resident(blocks[16], 12 << 20)


def test_what_is_freed_when_its_thread_is_over_is_found() -> None:
    assert int(alone(left_by_a_thread_that_is_over)) < 256
