"""Pages under any order of events: nothing is lost, nothing leaks, nothing leaves under a reader."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.checks import check
from djinn_fx.sessions.pools.disk import Disk
from djinn_fx.sessions.pools.job import Job
from djinn_fx.sessions.pools.moves import ManualMover
from djinn_fx.sessions.pools.store import Store

SIZE = 16
picks = st.lists(st.integers(0, 30), max_size=6)


class Pages(RuleBasedStateMachine):
    """A model beside the store: what is written on each page, and how many have it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.written: dict[int, int] = {}
        self.refs: dict[int, int] = {}
        self.reading: list[int] = []
        self.stamp = 0

    @initialize(device=st.integers(2, 8), host=st.integers(0, 6), disk=st.integers(0, 4))
    def make(self, device: int, host: int, disk: int) -> None:
        below = Disk(Path(self.folder.name) / "pages", disk, SIZE) if disk else None
        self.store = Store(Arena(device, SIZE, kept=1), Arena(host, SIZE) if host else None, below)
        self.mover = ManualMover(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.mover.run()
            self.store.done(self.reading)
            for page, count in self.refs.items():
                for _ in range(count):
                    self.store.release([page])
            check(self.store)
            assert self.store.table.in_use == 0
            assert self.store.device.free == self.store.device.pages
            if self.store.disk is not None:
                assert self.store.disk.free == self.store.disk.pages
                self.store.disk.close()
        self.folder.cleanup()

    def some(self, picked: list[int]) -> list[int]:
        pages = sorted(self.refs)
        return list(dict.fromkeys(pages[place % len(pages)] for place in picked)) if pages else []

    def submit(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.mover.submit(job)

    def write(self, page: int) -> None:
        self.stamp = self.stamp % 250 + 1
        self.store.device.memory[self.store.table.device[page]] = self.stamp
        self.written[page] = self.stamp

    @rule(count=st.integers(1, 3))
    def allocate(self, count: int) -> None:
        free = self.store.device.free
        pages = self.store.allocate(count)
        assert (pages is None) == (free < count)
        for page in pages or ():
            assert not self.store.device.memory[self.store.table.device[page]].any()
            self.refs[page] = 1
            self.write(page)

    @rule(picked=picks)
    def evict(self, picked: list[int]) -> None:
        self.submit(self.store.evict(self.some(picked))[1])

    @rule(picked=picks)
    def copy_ahead(self, picked: list[int]) -> None:
        self.submit(self.store.copy_ahead(self.some(picked)))

    @rule(picked=picks)
    def load(self, picked: list[int]) -> None:
        self.submit(self.store.load(self.some(picked))[0])

    @rule(picked=picks)
    def cancel(self, picked: list[int]) -> None:
        self.store.cancel_load(self.some(picked))

    @rule(picked=picks)
    def demote(self, picked: list[int]) -> None:
        self.submit(self.store.demote(self.some(picked)))

    @rule(picked=picks)
    def drop_copies(self, picked: list[int]) -> None:
        self.store.drop_copies(self.some(picked))

    @precondition(lambda self: self.mover.jobs)
    @rule(place=st.integers(0, 5))
    def begin(self, place: int) -> None:
        self.mover.begin(place % len(self.mover.jobs))

    @precondition(lambda self: self.mover.begun)
    @rule()
    def end(self) -> None:
        self.mover.end()

    @rule(picked=picks)
    def read(self, picked: list[int]) -> None:
        pages = [page for page in self.some(picked) if self.store.on_device(page)]
        self.store.read(pages)
        self.reading += pages

    @rule()
    def done(self) -> None:
        self.store.done(self.reading)
        self.reading = []

    @rule(picked=picks)
    def write_to(self, picked: list[int]) -> None:
        for page in self.some(picked):
            if not self.store.on_device(page) or page in self.reading:
                continue
            mine = self.store.own(page)
            if mine is None:
                continue
            if mine != page:
                self.refs[page] -= 1
                self.refs[mine] = 1
            self.write(mine)

    @rule(picked=picks)
    def share(self, picked: list[int]) -> None:
        pages = self.some(picked)
        self.store.share(pages)
        for page in pages:
            self.refs[page] += 1

    @rule(picked=picks)
    def release(self, picked: list[int]) -> None:
        for page in self.some(picked):
            if page in self.reading:
                continue
            self.store.release([page])
            self.refs[page] -= 1
            if not self.refs[page]:
                del self.refs[page], self.written[page]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "store"):
            return
        check(self.store)
        for page, stamp in self.written.items():
            assert not self.store.lost(page)
            if self.store.on_device(page):
                row = self.store.device.memory[self.store.table.device[page]]
                assert torch.equal(row, torch.full_like(row, stamp)), page


class TestPages(Pages.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.exam
class TestPagesLong(Pages.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=1500, stateful_step_count=80, deadline=None)


@pytest.mark.exam
def test_a_hundred_thousand_swaps_lose_nothing_and_leak_no_page() -> None:
    import argparse

    from bench.harness.harness import Report
    from bench.sessions.real import _swaps

    report = Report("swaps", argparse.Namespace(json=None, strict=False))
    _swaps(report, 100_000)
    assert {bar["value"] for bar in report.content()["bars"].values()} == {0}
