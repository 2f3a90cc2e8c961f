"""Copies of pages between pools: what goes out and what comes in, on a queue and a thread each.

Neighbouring pages are copied as one run. On a CUDA device a direction has a stream of its own beside the one that
computes, and host memory is pinned; elsewhere a declared link says how long a transfer takes.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from djinn_fx.runtime.devices.links import Bucket
from djinn_fx.sessions.pools.arena import Arena, paired_runs
from djinn_fx.sessions.pools.disk import DamagedPage, Disk
from djinn_fx.sessions.pools.job import Job, Way
from djinn_fx.sessions.pools.store import Store
from djinn_fx.threads import ENDING, start_thread

#: Bytes a second that memory is taken to copy at before anything was copied.
GUESS = 8e9


class Mover(Protocol):
    """Who carries jobs out."""

    def submit(self, job: Job) -> None:
        """Take a job; called under the store's lock."""

    def waiting(self, into_device: bool) -> int:
        """Pages of jobs that are not done, one direction."""

    def rate(self, into_device: bool) -> float:
        """Bytes a second of one direction: as declared, else as measured, else a guess until something has passed."""

    def close(self) -> None:
        """Begin nothing new."""


def carry_out(job: Job, store: Store, link: Bucket | None, stream: Any = None) -> None:
    """Copy what ``store.start`` left of a job; called without the lock.

    Args:
        job: its failures are written into it.
        store: for its pools' memory.
        link: which the pages pass, unless they go from host to disk; None for one as fast as memory is.
        stream: of CUDA, for a device there.
    """
    pairs = [(source, target) for _, source, target in job.moves]
    if link is not None and job.way is not Way.HOST_TO_DISK:
        link.wait(link.book(len(pairs) * store.device.page_bytes))
    device = store.device.memory
    if job.way in (Way.TO_HOST, Way.FROM_HOST):
        assert store.host is not None
        host = store.host.memory
        out = job.way is Way.TO_HOST
        _copy(device if out else host, host if out else device, pairs, stream, job.after)
        return
    assert store.disk is not None
    if job.way is Way.FROM_DISK:
        _read(job, store.disk, store.device)
        return
    source = device if job.way is Way.TO_DISK else store.host
    _write(job, store.disk, source.memory if isinstance(source, Arena) else source, stream)


def _copy(source: torch.Tensor, target: torch.Tensor, pairs: list[tuple[int, int]], stream: Any, after: Any) -> None:
    if stream is None:
        for start, to, count in paired_runs(pairs):
            target[to : to + count].copy_(source[start : start + count])
        return
    with torch.cuda.stream(stream):
        if after is not None:
            stream.wait_event(after)
        for start, to, count in paired_runs(pairs):
            target[to : to + count].copy_(source[start : start + count], non_blocking=True)
        stream.synchronize()  # this thread waits; the device computes on


def _read(job: Job, disk: Disk, device: Arena) -> None:
    for page, source, target in job.moves:
        try:
            disk.read(source, device.memory[target])
        except (DamagedPage, OSError) as error:
            job.failed[page] = str(error)


def _write(job: Job, disk: Disk, memory: torch.Tensor | None, stream: Any) -> None:
    assert memory is not None
    if stream is not None and job.after is not None:
        job.after.synchronize()
    for page, source, target in job.moves:
        try:
            disk.write(target, memory[source].cpu())
        except OSError as error:
            job.failed[page] = f"the disk takes no page: {error.strerror or error}"


class ThreadMover:
    """A thread for what goes out and one for what comes in, started when there is something.

    Args:
        store: whose pages are copied.
        lock: the store's.
        told: called after each job, without the lock.
        link_out, link_in: what pages pass; None for links that are as fast as memory is.
    """

    def __init__(
        self,
        store: Store,
        lock: AbstractContextManager[Any],
        told: Callable[[], None],
        link_out: Bucket | None = None,
        link_in: Bucket | None = None,
    ) -> None:
        self._store, self._lock, self._told = store, lock, told
        self._links = {False: link_out, True: link_in}
        self._queues: dict[bool, queue.SimpleQueue[Job | None]] = {
            True: queue.SimpleQueue(),
            False: queue.SimpleQueue(),
        }
        self._pages = {True: 0, False: 0}
        self._rates = {True: GUESS, False: GUESS}
        self._running: set[bool] = set()

    def submit(self, job: Job) -> None:
        """As in :class:`Mover`."""
        into = job.way.enters_device
        if self._store.device.memory.is_cuda:
            job.after = torch.cuda.Event()
            job.after.record(torch.cuda.current_stream(self._store.device.memory.device))
        self._pages[into] += len(job.moves)
        self._queues[into].put(job)
        if into not in self._running:
            self._running.add(into)
            start_thread(lambda: self._serve(into), f"djinn moves pages {'in' if into else 'out'}")

    def waiting(self, into_device: bool) -> int:
        """As in :class:`Mover`."""
        return self._pages[into_device]

    def rate(self, into_device: bool) -> float:
        """As in :class:`Mover`."""
        link = self._links[into_device]
        return self._rates[into_device] if link is None else link.bandwidth_bytes_s

    def close(self) -> None:
        """As in :class:`Mover`."""
        for waiting in self._queues.values():
            waiting.put(None)

    def _serve(self, into: bool) -> None:
        memory = self._store.device.memory
        stream = torch.cuda.Stream(memory.device) if memory.is_cuda else None
        while not ENDING.is_set():
            try:
                job = self._queues[into].get(timeout=0.2)
            except queue.Empty:
                continue
            if job is None:
                return
            wanted = len(job.moves)
            with self._lock:
                self._store.start(job)
            begun, size = time.perf_counter(), len(job.moves) * self._store.device.page_bytes
            carry_out(job, self._store, self._links[into], stream)
            took = time.perf_counter() - begun
            with self._lock:
                if size:
                    self._rates[into] += 0.2 * (size / max(took, 1e-9) - self._rates[into])
                self._store.finish(job)
                self._pages[into] -= wanted
            self._told()


class ManualMover:
    """Carries a job out when it is told to, in two halves: for tests, and where one thread does everything."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.jobs: deque[Job] = deque()
        self.begun: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """As in :class:`Mover`."""
        self.jobs.append(job)

    def waiting(self, into_device: bool) -> int:
        """As in :class:`Mover`."""
        return sum(len(job.moves) for job in (*self.jobs, *self.begun) if job.way.enters_device == into_device)

    def rate(self, into_device: bool) -> float:
        """As in :class:`Mover`."""
        return GUESS

    def begin(self, place: int = 0) -> None:
        """Copy the pages of a job; they have not arrived yet."""
        job = self.jobs[place]
        del self.jobs[place]
        self._store.start(job)
        carry_out(job, self._store, None)
        self.begun.append(job)

    def end(self) -> None:
        """Let the oldest job's pages arrive."""
        self._store.finish(self.begun.popleft())

    def run(self) -> None:
        """Carry everything out."""
        while self.jobs or self.begun:
            if self.jobs:
                self.begin()
            self.end()

    def close(self) -> None:
        """As in :class:`Mover`."""
