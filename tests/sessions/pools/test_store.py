"""Pages that leave and return: contents, sharing, copies on write, runs, links."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from djinn_fx.runtime.devices.links import Bucket
from djinn_fx.sessions.pools.arena import Arena, paired_runs, runs
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.pools.disk import Disk
from djinn_fx.sessions.pools.job import Job
from djinn_fx.sessions.pools.moves import ManualMover, carry_out
from djinn_fx.sessions.pools.store import Store
from djinn_fx.settings.devices import DeclaredLink

SIZE = 64


def pools(device: int = 4, host: int = 4, disk: int = 0, folder: Path | None = None) -> tuple[Store, ManualMover]:
    below = Disk(folder, disk, SIZE) if folder is not None and disk else None
    store = Store(Arena(device, SIZE, kept=1), Arena(host, SIZE) if host else None, below)
    return store, ManualMover(store)


def fill(store: Store, page: int, value: int) -> None:
    store.device.memory[store.table.device[page]] = value


def value(store: Store, page: int) -> int:
    row = store.device.memory[store.table.device[page]]
    assert (row == row[0]).all()
    return int(row[0])


def submit(mover: ManualMover, jobs: list[Job]) -> None:
    for job in jobs:
        mover.submit(job)


def test_what_leaves_returns_as_it_was() -> None:
    store, mover = pools()
    pages = store.allocate(4)
    assert pages is not None
    assert store.allocate(1) is None
    for page in pages:
        fill(store, page, page + 1)
    at_once, jobs, without = store.evict(pages[:3])
    assert (at_once, without, len(jobs)) == (0, [], 1)
    submit(mover, jobs)
    check(store)
    assert not any(map(store.on_device, pages[:3]))
    mover.run()
    check(store)
    assert store.device.free == 3
    others = store.allocate(2)
    assert others is not None
    assert not value(store, others[0])  # zeroed, not the page that was there
    store.release(others)
    loads, short = store.load(pages)
    submit(mover, loads)
    mover.run()
    assert short == 0
    assert [value(store, page) for page in pages] == [1, 2, 3, 4]
    check(store)


def test_a_page_with_a_true_copy_leaves_at_once_and_a_written_one_does_not() -> None:
    store, mover = pools()
    (page,) = store.allocate(1) or []
    submit(mover, store.evict([page])[1])
    mover.run()
    submit(mover, store.load([page])[0])
    mover.run()
    assert store.evict([page])[0] == 1
    assert store.counts.evicted_clean == 1
    submit(mover, store.load([page])[0])
    mover.run()
    assert store.own(page) == page
    assert store.host is not None
    assert store.host.free == 4
    at_once, jobs, _ = store.evict([page])
    assert at_once == 0
    assert len(jobs) == 1


def test_who_writes_to_a_shared_page_gets_its_own() -> None:
    store, _ = pools()
    (page,) = store.allocate(1) or []
    fill(store, page, 7)
    store.share([page])
    mine = store.own(page)
    assert mine is not None
    assert mine != page
    fill(store, mine, 8)
    assert value(store, page) == 7
    assert store.own(page) == page
    assert store.counts.copied_on_write == 1
    store.release([mine, page])
    assert store.table.in_use == 0


def test_what_is_read_does_not_leave() -> None:
    store, _ = pools()
    pages = store.allocate(2) or []
    store.read(pages[:1])
    assert store.evict(pages)[1][0].moves[0][0] == pages[1]
    check(store)


def test_a_page_that_is_wanted_again_stays() -> None:
    store, mover = pools()
    (page,) = store.allocate(1) or []
    fill(store, page, 5)
    submit(mover, store.evict([page])[1])
    mover.begin()
    assert store.load([page]) == ([], 0)
    assert store.on_device(page)
    assert store.own(page) == page
    fill(store, page, 6)  # while the copy of before is under way
    mover.end()
    assert value(store, page) == 6
    assert store.host is not None
    assert store.host.free == 4
    assert store.counts.cancelled == 1
    check(store)


def test_a_copy_ahead_makes_leaving_free_unless_the_page_is_written_meanwhile() -> None:
    store, mover = pools()
    one, two = store.allocate(2) or []
    submit(mover, store.copy_ahead([one, two]))
    assert store.on_device(one)
    mover.begin()
    assert store.own(two) == two
    mover.end()
    assert store.evict([one])[0] == 1
    assert store.evict([two])[0] == 0
    check(store)


def test_a_cancelled_prefetch_gives_its_place_back() -> None:
    store, mover = pools()
    (page,) = store.allocate(1) or []
    fill(store, page, 9)
    submit(mover, store.evict([page])[1])
    mover.run()
    submit(mover, store.load([page])[0])
    store.cancel_load([page])
    mover.run()
    assert store.device.free == 4
    submit(mover, store.load([page])[0])
    mover.begin()
    store.cancel_load([page])
    store.load([page])  # wanted after all
    mover.end()
    assert value(store, page) == 9


def test_a_full_host_gives_up_copies_first_then_the_disk_takes_then_nobody(tmp_path: Path) -> None:
    store, mover = pools(4, 1, 1, tmp_path)
    pages = store.allocate(4) or []
    for page in pages:
        fill(store, page, page + 1)
    _, jobs, without = store.evict(pages)
    assert without == pages[2:]
    submit(mover, jobs)
    mover.run()
    assert [store.table.host[page] >= 0 for page in pages] == [True, False, False, False]
    assert store.table.disk[pages[1]] >= 0
    submit(mover, store.load(pages[:2])[0])
    mover.run()
    assert [value(store, page) for page in pages] == [1, 2, 3, 4]
    submit(mover, store.evict([pages[2]])[1])  # the host's only place holds a copy of what is on the device
    mover.run()
    assert store.table.host[pages[2]] >= 0
    check(store)


def test_from_the_host_down_to_the_disk_and_back(tmp_path: Path) -> None:
    store, mover = pools(2, 2, 2, tmp_path)
    (page,) = store.allocate(1) or []
    fill(store, page, 3)
    submit(mover, store.evict([page])[1])
    mover.run()
    submit(mover, store.demote([page]))
    mover.run()
    assert store.host is not None
    assert store.host.free == 2
    assert store.counts.demoted == 1
    submit(mover, store.load([page])[0])
    mover.run()
    assert value(store, page) == 3
    check(store)


def test_a_page_released_while_it_moves_is_freed_when_it_has_arrived() -> None:
    store, mover = pools()
    (page,) = store.allocate(1) or []
    submit(mover, store.evict([page])[1])
    mover.begin()
    store.release([page])
    check(store)
    assert store.table.in_use == 1
    mover.end()
    assert store.table.in_use == 0
    assert store.device.free == 4
    check(store)


def test_runs_are_copied_together() -> None:
    assert list(runs([3, 4, 5, 9, 1])) == [(3, 6), (9, 10), (1, 2)]
    assert list(runs([])) == []
    assert list(paired_runs([(7, 2), (5, 0), (6, 1), (9, 4)])) == [(5, 0, 3), (9, 4, 1)]


def test_pages_take_as_long_as_a_declared_link() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += max(seconds, 1e-4)  # who waits awake lets time pass as well

    declared = DeclaredLink(ends=("device", "host"), bandwidth_bytes_s=2.0 * SIZE, latency_s=0.0)
    link = Bucket(declared, clock=lambda: now[0], sleep=sleep)
    store, _ = pools()
    _, jobs, without = store.evict(store.allocate(3) or [])
    assert not without
    for job in jobs:
        store.start(job)
        carry_out(job, store, link)
        store.finish(job)
    assert now[0] == pytest.approx(1.5, abs=1e-3), "three pages at two a second"


def test_the_page_of_zeros_is_never_handed_out() -> None:
    store, _ = pools(3)
    pages = store.allocate(3) or []
    assert sorted(store.table.device[page] for page in pages) == [1, 2, 3]
    assert not store.device.memory[0].any()


def test_bookkeeping_is_two_hundredths_of_the_pages_at_most() -> None:
    store, _ = pools(1000, 0)
    store.allocate(1000)
    a_small_page = 16 * 1024  # of a model with two layers
    assert store.table.nbytes <= 0.02 * 1000 * a_small_page
    assert torch.is_tensor(store.device.memory)
