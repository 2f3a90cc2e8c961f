"""The table of protected pages: every watcher is told of every write, whoever looked first."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from collections.abc import Iterator

import pytest

from djinn_fx.engines.bound import write_protection
from djinn_fx.engines.bound.userfaultfd import PAGE, Kernel, Span
from djinn_fx.engines.bound.write_protection import MAX_DISTURBANCES, MAX_GAP, Table, Watcher, without
from tests.engines.bound.test_userfaultfd import Area, needs_kernel

pytestmark = needs_kernel


@pytest.fixture
def table() -> Iterator[Table]:
    found = write_protection.table()
    assert found is not None
    yield found
    gc.collect()


def watch(table: Table, area: Area, *pages: tuple[int, int], joined: bool = True) -> Watcher:
    spans = [(area.start + first * PAGE, area.start + last * PAGE) for first, last in pages]
    return table.watch(spans, lambda *_: joined)


def test_a_write_is_seen_and_stays_seen(table: Table) -> None:
    area = Area()
    watcher = watch(table, area, (0, 100))
    assert not watcher.written()
    assert not watcher.written()
    area.write(99)
    assert watcher.written()
    assert watcher.written()
    assert not watch(table, area, (0, 100)).written()


def test_everybody_who_watches_a_page_is_told(table: Table) -> None:
    area = Area()
    first, second, apart = watch(table, area, (0, 50)), watch(table, area, (40, 90)), watch(table, area, (90, 99))
    area.write(45)
    assert first.written()  # its scan protects the page again ...
    assert second.written()  # ... and yet the other one is told
    assert not apart.written()


def test_whoever_comes_later_does_not_take_a_write_from_who_was_there(table: Table) -> None:
    area = Area()
    first = watch(table, area, (0, 50))
    area.write(7)
    assert not watch(table, area, (0, 50)).written()
    assert first.written()


def test_blocks_near_each_other_are_one_scan_and_far_ones_are_not(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[Span] = []
    scan = Kernel.scan

    def counting(self: Kernel, start: int, end: int) -> list[Span]:
        scans.append((start, end))
        return scan(self, start, end)

    monkeypatch.setattr(Kernel, "scan", counting)
    area, gap = Area(), MAX_GAP // PAGE
    watcher = watch(table, area, (0, 20), (20 + gap, 40), (41 + 2 * gap, 99))
    scans.clear()
    assert not watcher.written()
    assert len(scans) == 2
    apart = watch(table, area, (0, 20), (21, 40), joined=False)
    scans.clear()
    assert not apart.written()
    assert len(scans) == 2


def test_a_neighbour_written_again_and_again_blames_nobody_and_is_left_out(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = Area()
    watcher = watch(table, area, (0, 20), (22, 40))
    told: list[int] = []
    scan = Kernel.scan

    def counting(self: Kernel, start: int, end: int) -> list[Span]:
        found = scan(self, start, end)
        told.append(len(found))
        return found

    monkeypatch.setattr(Kernel, "scan", counting)
    for _ in range(2 * MAX_DISTURBANCES):
        area.write(21)
        assert not watcher.written()
    assert sum(told) == MAX_DISTURBANCES
    area.write(22)
    assert watcher.written()


def test_what_nobody_watches_any_more_is_not_protected(table: Table) -> None:
    area = Area()
    before = table.watched
    first, second = watch(table, area, (0, 50)), watch(table, area, (20, 90))
    assert table.watched == before + 2
    del second
    assert table.watched == before + 1
    assert not first.written()
    with pytest.raises(OSError):
        table.kernel.scan(area.start + 60 * PAGE, area.start + 70 * PAGE)
    area.write(30)
    assert first.written()
    del first
    assert table.watched == before
    with pytest.raises(OSError):
        table.kernel.scan(area.start, area.start + PAGE)


def test_memory_that_is_gone_when_its_watcher_goes_harms_nobody(table: Table) -> None:
    area, other = Area(), Area()
    gone, there = watch(table, area, (0, 50)), watch(table, other, (0, 50))
    area.memory.close()
    del gone
    assert not there.written()
    assert table.watched >= 1


def test_memory_replaced_by_other_memory_counts_as_written(table: Table) -> None:
    import ctypes

    area = Area()
    watcher = watch(table, area, (0, 50), (60, 90))
    assert not watcher.written()
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
    where = ctypes.c_void_p(area.start + 70 * PAGE)
    assert libc.mmap(where, ctypes.c_size_t(PAGE), 3, fixed, -1, ctypes.c_long(0)) == where.value
    assert watcher.written()


def test_memory_that_cannot_be_protected_is_said_to_be_so(table: Table) -> None:
    area = Area()
    nowhere = (1 << 46, (1 << 46) + 9 * PAGE)
    watcher = table.watch([nowhere, (area.start, area.end)], lambda *_: False)
    assert watcher.refused == {nowhere}
    area.write(500)
    assert watcher.written()


def test_a_look_that_was_broken_off_counts_for_all(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area()
    first, second = watch(table, area, (0, 50)), watch(table, area, (100, 150))
    scan = Kernel.scan

    def interrupted(self: Kernel, start: int, end: int) -> list[Span]:
        scan(self, start, end)
        raise KeyboardInterrupt

    area.write(3)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "scan", interrupted)
        with pytest.raises(KeyboardInterrupt):
            first.written()
    assert second.written()
    assert first.written()


def test_threads_that_look_at_once_all_see_each_write(table: Table) -> None:
    area = Area()
    rounds, threads = 40, 4
    missed: list[int] = []
    gate = threading.Barrier(threads)
    watchers: list[Watcher] = []

    def look(number: int) -> None:
        for round_ in range(rounds):
            if not gate.wait():
                watchers[:] = [watch(table, area, (0, 99)) for _ in range(threads)]
            gate.wait()
            if number == 0:
                area.write(round_)
            gate.wait()
            if not watchers[number].written():
                missed.append(round_)
            gate.wait()

    workers = [threading.Thread(target=look, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert missed == []


def test_a_forked_child_trusts_nothing_of_its_parents_and_has_a_table_of_its_own(table: Table) -> None:
    area = Area()
    watcher = watch(table, area, (0, 50))
    child = os.fork()
    if not child:
        known = watcher.written()
        own = write_protection.table()
        right = known and own is not None and own is not table
        if own is not None:
            mine = watch(own, area, (0, 50))
            right = right and not mine.written()
            area.write(3)
            right = right and mine.written()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not watcher.written()
    area.write(3)
    assert watcher.written()


def test_switched_off_there_is_no_table_and_a_reason(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area()
    watcher = watch(table, area, (0, 50))
    with write_protection.switched_off():
        assert write_protection.table() is None
        assert write_protection.why_not()
        assert watcher.written()
    assert write_protection.table() is table
    assert not watcher.written()
    monkeypatch.setattr(write_protection._Process, "table", None)
    monkeypatch.setenv(write_protection.VARIABLE, "off")
    assert write_protection.table() is None
    assert write_protection.why_not()


@pytest.mark.parametrize("number", [1, 22, 25, 38])
def test_a_kernel_that_refuses_leaves_a_reason(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Kernel) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(write_protection._Process, "table", None)
    monkeypatch.setattr(write_protection._Process, "why_not", None)
    monkeypatch.setattr(Kernel, "__init__", refuse)
    assert write_protection.table() is None
    assert write_protection.why_not()


def test_spans_less_others() -> None:
    assert list(without((0, 10), [])) == [(0, 10)]
    assert list(without((0, 10), [(2, 4), (3, 6), (9, 12)])) == [(0, 2), (6, 9)]
    assert list(without((0, 10), [(-5, 20)])) == []
    assert list(without((5, 10), [(0, 5), (10, 12)])) == [(5, 10)]
