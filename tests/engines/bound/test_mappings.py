"""What /proc/self/maps says of some memory."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from djinn_fx.engines.bound.mappings import Mappings, files_under, state_of

PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc/self/maps")


def start_of(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def mapped(path: Path, flags: int) -> mmap.mmap:
    path.write_bytes(bytes(8 * PAGE))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8 * PAGE, flags=flags)


def test_shared_private_and_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a file with spaces"
    shared, private = mapped(path, mmap.MAP_SHARED), mapped(path, mmap.MAP_PRIVATE)
    anonymous = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    spans = [(start_of(one) + PAGE, start_of(one) + 2 * PAGE) for one in (shared, private, anonymous)]
    found = Mappings(spans)
    assert [found.shared(span) for span in spans] == [True, False, False]
    assert files_under(found) == (str(path),)
    assert files_under(Mappings(spans[2:])) == ()


def test_only_what_lies_under_the_ranges_is_known() -> None:
    area = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = start_of(area)
    found = Mappings([(start, start + 8 * PAGE), (start + PAGE, start + 3 * PAGE)])
    assert len(found.known) == 1
    assert found.one(start, start + 8 * PAGE)
    assert Mappings([]).known == ()


def test_a_gap_with_other_rights_is_no_single_mapping() -> None:
    area = mmap.mmap(-1, 9 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = start_of(area)
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(start + 4 * PAGE), ctypes.c_size_t(PAGE), mmap.PROT_READ) == 0
    found = Mappings([(start, start + 2 * PAGE), (start + 6 * PAGE, start + 9 * PAGE)])
    assert found.one(start + PAGE, start + 2 * PAGE)
    assert not found.one(start + PAGE, start + 7 * PAGE)


def test_a_file_that_is_written_replaced_or_gone_has_another_state(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    states = [state_of(str(path))]
    path.write_bytes(b"more")
    states.append(state_of(str(path)))
    (tmp_path / "other").write_bytes(b"more")
    os.replace(tmp_path / "other", path)
    states.append(state_of(str(path)))
    path.unlink()
    states.append(state_of(str(path)))
    assert len(set(states)) == 4
    assert states[-1] is None
