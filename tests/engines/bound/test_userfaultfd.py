"""The kernel's interface: its numbers, and that it names exactly the pages that were written."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from djinn_fx.engines.bound import userfaultfd
from djinn_fx.engines.bound.userfaultfd import PAGE, Kernel
from djinn_fx.engines.bound.write_protection import table

PAGES = 600

needs_kernel = pytest.mark.skipif(table() is None, reason="this kernel does not tell of writes")


class Area:
    """Pages of its own, all of them there."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory[:] = bytes(PAGES * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.end = self.start + PAGES * PAGE

    def write(self, page: int) -> None:
        self.memory[page * PAGE + 5] = 7

    def pages(self, spans: list[tuple[int, int]]) -> list[int]:
        return [page for s, e in spans for page in range((s - self.start) // PAGE, (e - self.start) // PAGE)]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def test_the_numbers_are_those_of_the_headers() -> None:
    assert userfaultfd.UFFDIO_API == 0xC018AA3F
    assert userfaultfd.UFFDIO_REGISTER == 0xC020AA00
    assert userfaultfd.UFFDIO_UNREGISTER == 0x8010AA01
    assert userfaultfd.PAGEMAP_SCAN == 0xC0606610


def test_the_bits_are_those_of_the_header_where_there_is_one() -> None:
    header = Path("/usr/include/linux/userfaultfd.h")
    text = header.read_text() if header.exists() else ""
    if "UFFD_FEATURE_WP_ASYNC" not in text:
        pytest.skip("no header of a kernel that can")
    bits = {name: 1 << int(bit) for name, bit in re.findall(r"define (UFFD_FEATURE_\w+)\s+\(1<<(\d+)\)", text)}
    assert bits["UFFD_FEATURE_WP_ASYNC"] == userfaultfd._WP_ASYNC
    assert bits["UFFD_FEATURE_WP_UNPOPULATED"] == userfaultfd._WP_UNPOPULATED


@needs_kernel
def test_a_scan_names_what_was_written_once(kernel: Kernel) -> None:
    area = Area()
    kernel.register(area.start, area.end)
    kernel.scan(area.start, area.end)
    assert kernel.scan(area.start, area.end) == []
    area.write(3)
    area.write(400)
    assert area.pages(kernel.scan(area.start, area.end)) == [3, 400]
    assert kernel.scan(area.start, area.end) == []
    assert area.memory[3 * PAGE + 5] == 7


@needs_kernel
def test_more_ranges_than_one_answer_holds_are_all_named(kernel: Kernel) -> None:
    area = Area()
    kernel.register(area.start, area.end)
    kernel.scan(area.start, area.end)
    written = list(range(0, PAGES, 2))
    assert len(written) > userfaultfd._ANSWERS
    for page in written:
        area.write(page)
    assert area.pages(kernel.scan(area.start, area.end)) == written


@needs_kernel
def test_what_is_not_registered_is_an_error_and_not_silence(kernel: Kernel) -> None:
    area, other = Area(), Area()
    kernel.register(area.start, area.end)
    with pytest.raises(OSError):
        kernel.scan(other.start, other.end)
    kernel.unregister(area.start, area.end)
    with pytest.raises(OSError):
        kernel.scan(area.start, area.end)


@needs_kernel
def test_a_machine_it_does_not_know_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    with pytest.raises(OSError):
        Kernel()


@needs_kernel
def test_descriptors_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    Kernel().close()
    assert len(os.listdir("/proc/self/fd")) == before
