"""Pages of libraries that nobody needs now go, and what this process has changed stays."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.files.control_groups import text_of
from djinn_fx.pool.procfs import give_back_code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

BYTES = 64 * mmap.PAGESIZE


def view_of(path: Path, *, changed: bool = False) -> mmap.mmap:
    """A library as the loader shows it: private, read, not to be written to (any more)."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * BYTES)
    with path.open("rb") as file:
        how = mmap.PROT_READ | (mmap.PROT_WRITE if changed else 0)
        view = mmap.mmap(file.fileno(), BYTES, flags=mmap.MAP_PRIVATE, prot=how)
    if changed:
        view[100] = ord("y")
        library: Any = ctypes.CDLL(None)
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
        assert library.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(BYTES), mmap.PROT_READ) == 0
    assert view[:].count(b"x") >= BYTES - 1
    return view


def resident(path: Path) -> int:
    """Bytes of the file that this process has in memory."""
    lines = text_of(Path("/proc/self/smaps")).splitlines()
    place = next(number for number, line in enumerate(lines) if line.endswith(str(path)))
    line = next(line for line in lines[place:] if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


def test_pages_as_on_the_disk_go_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "some+runtime" / "library.so"
    view = view_of(path)
    assert resident(path) == BYTES
    assert give_back_code({"some+runtime", "another"}) == BYTES
    assert resident(path) == 0
    assert view[:] == b"x" * BYTES


def test_what_was_changed_stays(tmp_path: Path) -> None:
    path = tmp_path / "runtime" / "library.so"
    view = view_of(path, changed=True)
    assert give_back_code({"runtime"}) == 0
    assert resident(path) == BYTES
    assert view[100] == ord("y")


def test_other_libraries_stay(tmp_path: Path) -> None:
    path = tmp_path / "other" / "library.so"
    view = view_of(path)
    assert give_back_code({"runtime"}) == 0
    assert give_back_code(set()) == 0
    assert resident(path) == BYTES
    assert view[0] == ord("x")
