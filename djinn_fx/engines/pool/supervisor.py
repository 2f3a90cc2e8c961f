"""The build pool: queue, admission, de-duplication, and the children that build. No torch.

Threads. One manager thread decides what starts and which idle child has been kept long enough; each build that runs
has a thread that waits for its child, asleep. State is guarded by one plain lock that no callback is called under.
``cancel`` takes no lock at all: it may be called by a finalizer, which can run anywhere, also inside the pool.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from djinn_fx.engines.pool.admission import NoRoom, Room, room_for
from djinn_fx.engines.pool.jobs import (
    WORKERS,
    BuildDone,
    BuildFailed,
    BuildJob,
    BuildOutcome,
    BusyElsewhere,
    FailureKind,
    PoolCounters,
)
from djinn_fx.engines.pool.limits import PoolLimits, available_bytes
from djinn_fx.engines.pool.process import Child, ChildError
from djinn_fx.units import format_bytes, format_seconds

log = logging.getLogger("djinn_fx.engines.pool")

#: Seconds after which a job that another process builds is looked at again.
BUSY_RETRY_S = 0.3
#: So many jobs may start before one that waits for memory; then all others wait for it.
OVERTAKES = 8
#: Seconds for a killed child to be gone; then its warden is killed too.
_BURY_S = 2.0

OnStart = Callable[[], None]
OnDone = Callable[[BuildOutcome], None]


class _State(str, Enum):
    QUEUED = "queued"
    ELSEWHERE = "built elsewhere"  # another process builds it; looked at again soon
    BUILDING = "building"
    DROPPED = "dropped"


@dataclass(eq=False)
class Ticket:
    """One submission; what :meth:`BuildPool.cancel` takes.

    Attributes:
        key: of the job.
    """

    key: str
    _on_start: OnStart | None = field(repr=False)
    _on_done: OnDone = field(repr=False)
    _entry: _Entry | None = field(default=None, repr=False)
    _started: bool = field(default=False, repr=False)
    _cancelled: bool = field(default=False, repr=False)


@dataclass(eq=False)
class _Entry:
    """A job and everybody who waits for it."""

    job: BuildJob
    tickets: list[Ticket] = field(default_factory=list)
    state: _State = _State.QUEUED
    since: float = field(default_factory=time.monotonic)
    not_before: float = 0.0
    overtaken: int = 0
    running: bool = False  # a thread has it
    started: bool = False  # a child builds: on_start is due
    child: Child | None = None  # an idle one given to it by the manager
    wake: tuple[int, int] | None = None  # a pipe that wakes its thread

    @property
    def label(self) -> str:
        return self.job.label or self.job.key[:12]


class BuildPool:
    """Builds jobs in child processes.

    Args:
        limits: bounds; None for :meth:`PoolLimits.default`.
        workers: name to "module:function"; a child gets the function's name, nothing else of this table.
        extra_path: more entries for the children's ``sys.path``, absolute, in front.
    """

    def __init__(
        self,
        limits: PoolLimits | None = None,
        *,
        workers: Mapping[str, str] = WORKERS,
        extra_path: Sequence[str] = (),
    ) -> None:
        self.limits = limits if limits is not None else PoolLimits.default()
        self._workers = workers
        self._extra_path = tuple(extra_path)
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._renew()
        _pools.add(self)

    def _renew(self) -> None:
        """As new, without touching what there was: that belongs to the process this one was forked from."""
        self._lock = threading.Lock()
        #: Wakes the manager: a ticket to cancel, or None. SimpleQueue may be used by finalizers.
        self._news: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._entries: dict[str, _Entry] = {}  # in the order they are to be looked at
        self._active: set[_Entry] = set()  # those a thread is at work on: they have the slots and the memory
        self._threads: set[threading.Thread] = set()
        self._manager: threading.Thread | None = None
        self._closed = False
        self._counts = dict.fromkeys(
            ("submitted", "joined", "built", "cancelled", "children_started", *_COUNTER.values()), 0
        )
        for child in [*self._idle, *self._busy]:
            child.forget()
        self._idle, self._busy = [], set()

    # Doors

    def submit(self, job: BuildJob, *, on_start: OnStart | None = None, on_done: OnDone) -> Ticket:
        """Have a job built. Returns at once.

        Args:
            job: what to build; with the key of a job that is queued or running it joins that one.
            on_start: called when a child starts to build it; not at all where none does.
            on_done: called once with the outcome, unless the ticket is cancelled. Both are called by threads of the
                pool, one after the other; an exception in them is logged.
        """
        ticket = Ticket(job.key, on_start, on_done)
        with self._lock:
            closed = self._closed
            if not closed:
                self._counts["submitted"] += 1
                entry = self._entries.get(job.key)
                if entry is None:
                    entry = self._entries[job.key] = _Entry(job)
                else:
                    self._counts["joined"] += 1
                ticket._entry = entry
                entry.tickets.append(ticket)
                _wake(entry)
                if self._manager is None:
                    self._manager = threading.Thread(target=self._manage, name="djinn-pool", daemon=True)
                    self._manager.start()
        if closed:
            self._in_thread(partial(self._call_done, ticket, _CANCELLED), job.key)
        else:
            self._news.put(None)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """The ticket's owner does not want it any more: its callbacks are not called from now on (one that is being
        called is not stopped). The last ticket of a job cancelled: the job is dropped, or its child killed. May be
        called from anywhere, finalizers included, and more than once.
        """
        ticket._cancelled = True
        self._news.put(ticket)

    @property
    def closed(self) -> bool:
        """Whether it takes no jobs any more: their outcome is CANCELLED at once."""
        return self._closed

    @property
    def counters(self) -> PoolCounters:
        """What the pool did so far, in this process."""
        with self._lock:
            building = sum(entry.running for entry in self._entries.values())
            return PoolCounters(queued=len(self._entries) - building, building=building, **self._counts)

    def pending(self) -> tuple[tuple[str, str, float], ...]:
        """Label, state (``queued``, ``built elsewhere``, ``building``) and seconds in it, of every job not done."""
        now = time.monotonic()
        with self._lock:
            return tuple((entry.label, entry.state.value, now - entry.since) for entry in self._entries.values())

    def close(self) -> None:
        """Kill all children and drop all jobs; their outcome is CANCELLED. When it returns, no child lives."""
        self._shut(deliver=True)

    def _shut(self, deliver: bool) -> None:
        with self._lock:
            self._closed = True
            waiting = [entry for entry in self._entries.values() if not entry.running]
            for entry in self._entries.values():
                if not deliver:
                    entry.tickets.clear()
                _wake(entry)
            idle, self._idle = self._idle, []
            children = [*idle, *self._busy]
            manager = self._manager
        self._news.put(None)
        for child in children:
            child.stop()
        for entry in waiting:
            self._deliver(entry, _CANCELLED)
        until = time.monotonic() + _BURY_S
        for child in children:
            child.bury(max(0.0, until - time.monotonic()))
        for child in idle:
            child.kill()
        # A callback that never ends must not keep the interpreter from ending: no child is in its thread any more.
        until = time.monotonic() + (_BURY_S if deliver else 0.5)
        if manager is not None and manager is not threading.current_thread():
            manager.join(max(0.0, until - time.monotonic()))  # first: it may be starting threads
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # The manager

    def _manage(self) -> None:
        wait_s: float | None = None
        while True:
            with suppress(queue.Empty):
                ticket = self._news.get(timeout=wait_s)
                while True:
                    if ticket is not None:
                        self._drop(ticket)
                    ticket = self._news.get_nowait()
            now = time.monotonic()
            with self._lock:
                if self._closed:
                    return
                starting, refused, leaving = self._schedule(now)
                wait_s = self._pause(now)
            for child in leaving:
                _end(child)
            for entry, failure in refused:
                self._in_thread(partial(self._deliver, entry, failure), entry.job.key)
            for entry in starting:
                self._in_thread(partial(self._run, entry), entry.job.key)

    def _drop(self, ticket: Ticket) -> None:
        """One ticket is cancelled."""
        with self._lock:
            entry = ticket._entry
            if entry is None or ticket not in entry.tickets:
                return  # delivered, or cancelled before
            entry.tickets.remove(ticket)
            if entry.tickets:
                return
            self._counts["cancelled"] += 1
            log.debug("%s is dropped: nobody wants it any more", entry.label)
            entry.state = _State.DROPPED
            if self._entries.get(entry.job.key) is entry:
                del self._entries[entry.job.key]  # who wants it from now on starts anew
            _wake(entry)

    def _schedule(self, now: float) -> tuple[list[_Entry], list[tuple[_Entry, BuildFailed]], list[Child]]:
        """What starts now, what can never run and why, and which idle children go. Locked."""
        starting: list[_Entry] = []
        refused: list[tuple[_Entry, BuildFailed]] = []
        leaving = [child for child in self._idle if now - child.idle_since >= self.limits.idle_s or not child.usable()]
        self._idle = [child for child in self._idle if child not in leaving]
        passed: list[_Entry] = []  # due, but there is no memory
        for entry in list(self._entries.values()):
            if entry.running:
                continue
            failure = self._impossible(entry.job)
            if failure is None:
                full = len(self._active) >= self.limits.children
                if full or entry.not_before > now or any(other.overtaken >= OVERTAKES for other in passed):
                    continue
                room = room_for(
                    self.limits.reserved_bytes(entry.job.memory_bytes),
                    entry.job.worker,
                    held_bytes=[self.limits.reserved_bytes(other.job.memory_bytes) for other in self._active],
                    idle=self._idle,
                    limits=self.limits,
                    available=available_bytes,
                )
                if isinstance(room, NoRoom) and room.ever:
                    passed.append(entry)
                    continue
                if isinstance(room, NoRoom):
                    failure = _not_admitted(entry.job, f"{format_bytes(room.free_bytes)} are free")
            entry.running, entry.since = True, now
            if failure is not None:
                refused.append((entry, failure))
                continue
            assert isinstance(room, Room)
            for other in passed:
                other.overtaken += 1
            leaving += room.leave
            self._idle = [child for child in self._idle if child not in room.leave and child is not room.use]
            entry.child, entry.wake = room.use, _pipe()
            self._active.add(entry)
            starting.append(entry)
        return starting, refused, leaving

    def _impossible(self, job: BuildJob) -> BuildFailed | None:
        if sys.platform != "linux":
            return BuildFailed(kind=FailureKind.REFUSED, detail="builds in child processes need Linux")
        if job.worker not in self._workers:
            return BuildFailed(kind=FailureKind.REFUSED, detail=f"there is no worker named {job.worker!r}")
        if job.memory_bytes > self.limits.memory_bytes:
            return _not_admitted(job, f"the pool may use {format_bytes(self.limits.memory_bytes)}")
        return None

    def _pause(self, now: float) -> float | None:
        """Seconds until something is due without news; None for never. Locked."""
        due = [entry.not_before for entry in self._entries.values() if not entry.running and entry.not_before > now]
        due += [child.idle_since + self.limits.idle_s for child in self._idle]
        return max(0.0, min(due) - now) if due else None

    # A build's thread

    def _run(self, entry: _Entry) -> None:
        """One turn of a job: build it, or find that another process does."""
        elsewhere = False
        try:
            with ExitStack() as stack:
                try:
                    outcome: BuildOutcome | None = stack.enter_context(entry.job.guard())
                    if outcome is None:
                        outcome = self._build(entry)
                except BusyElsewhere:
                    elsewhere = True
                except Exception as error:
                    log.exception("%s: the pool cannot build it", entry.label)
                    outcome = BuildFailed(kind=FailureKind.REFUSED, detail=f"{type(error).__name__}: {error}")
                if not elsewhere:
                    assert outcome is not None
                    self._deliver(entry, outcome)
        except Exception:
            log.exception("%s: its lock cannot be let go", entry.label)
        finally:
            self._put_away(entry, elsewhere)

    def _build(self, entry: _Entry) -> BuildOutcome:
        """Have a child build it."""
        job, (child, entry.child) = entry.job, (entry.child, None)
        if child is not None and not child.usable():
            _end(child)
            child = None
        try:
            if child is None:
                child = Child(job.worker, self._workers[job.worker], self.limits, self._extra_path)
                with self._lock:
                    self._counts["children_started"] += 1
        except ChildError as error:
            return BuildFailed(kind=FailureKind.CRASHED, detail=str(error))
        reusable = False
        try:
            with self._lock:
                self._busy.add(child)
                entry.started, entry.state, entry.since = True, _started(entry.state), time.monotonic()
            log.info("building %s with %s (process %d)", entry.label, job.worker, child.pid)
            if self._woken(entry):
                return _CANCELLED
            assert entry.wake is not None
            outcome, reusable = child.build(job, self.limits, entry.wake[0], lambda: self._woken(entry))
        finally:
            self._put_back(child, reusable)
        return outcome

    def _woken(self, entry: _Entry) -> bool:
        """Call what joined since; True if nobody wants it any more."""
        with self._lock:
            if self._closed or entry.state is _State.DROPPED:
                return True
            tickets = list(entry.tickets)
        for ticket in tickets:
            self._call_start(ticket)
        return False

    def _put_back(self, child: Child, reusable: bool) -> None:
        """A child has finished: keep it for the next job, or end it."""
        leaving = [child]
        with self._lock:
            self._busy.discard(child)
            if reusable and not self._closed and self.limits.idle_s > 0:
                self._idle.append(child)
                excess = len(self._idle) - self.limits.children
                leaving, self._idle = self._idle[: max(0, excess)], self._idle[max(0, excess) :]
        for one in leaving:
            _end(one)

    def _put_away(self, entry: _Entry, elsewhere: bool) -> None:
        """The turn is over: give the slot back, and queue the job again if another process builds it."""
        child, entry.child = entry.child, None
        if child is not None:
            self._put_back(child, reusable=True)
        with self._lock:
            self._active.discard(entry)
            pipe, entry.wake = entry.wake, None
            again = elsewhere and entry.state is not _State.DROPPED
            if again and not self._closed:
                log.debug("%s is built by another process", entry.label)
                if entry.state is not _State.ELSEWHERE:
                    entry.state, entry.since = _State.ELSEWHERE, time.monotonic()
                entry.running, entry.not_before = False, time.monotonic() + BUSY_RETRY_S
                self._entries[entry.job.key] = self._entries.pop(entry.job.key)  # to the back of the queue
                again = False
        for end in pipe or ():
            os.close(end)
        if again:
            self._deliver(entry, _CANCELLED)
        self._news.put(None)

    def _deliver(self, entry: _Entry, outcome: BuildOutcome) -> None:
        """Tell everybody who waits."""
        with self._lock:
            if isinstance(outcome, BuildFailed) and (self._closed or entry.state is _State.DROPPED):
                outcome = _CANCELLED  # its child was killed for that, however it looked
            if self._entries.get(entry.job.key) is entry:
                del self._entries[entry.job.key]
                if isinstance(outcome, BuildFailed):
                    self._counts[_COUNTER[outcome.kind]] += 1
                else:
                    self._counts["built"] += entry.started
            tickets, entry.tickets = entry.tickets, []
            for ticket in tickets:
                ticket._entry = None  # whoever keeps a ticket does not keep the job's blobs
        _report(entry.label, outcome)
        for ticket in tickets:
            if entry.started:
                self._call_start(ticket)
            self._call_done(ticket, outcome)

    # Callbacks

    def _call_start(self, ticket: Ticket) -> None:
        """``on_start``, once, by the one thread that has the job."""
        if ticket._started or ticket._cancelled:
            return
        ticket._started = True
        if ticket._on_start is not None:
            try:
                ticket._on_start()
            except Exception:
                log.exception("what is to be done when %s starts failed", ticket.key[:12])

    def _call_done(self, ticket: Ticket, outcome: BuildOutcome) -> None:
        if ticket._cancelled:
            return
        try:
            ticket._on_done(outcome)
        except Exception:
            log.exception("what is to be done with the outcome of %s failed", ticket.key[:12])

    def _in_thread(self, work: Callable[[], None], name: str) -> None:
        def run() -> None:
            try:
                work()
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"djinn-pool-{name[:8]}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter ends: late rather than never
            run()


_COUNTER = {kind: kind.value.replace("-", "_") for kind in FailureKind}
_CANCELLED = BuildFailed(kind=FailureKind.CANCELLED, detail="the build was given up")


def _not_admitted(job: BuildJob, why: str) -> BuildFailed:
    need = format_bytes(job.memory_bytes)
    return BuildFailed(kind=FailureKind.NOT_ADMITTED, detail=f"the build is predicted to need {need}; {why}")


def _started(state: _State) -> _State:
    return state if state is _State.DROPPED else _State.BUILDING


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _wake(entry: _Entry) -> None:
    """Have the thread of a job ask what is new. The pool's lock is held: the pipe is not closed meanwhile."""
    if entry.wake is not None:
        with suppress(BlockingIOError):  # full: it will wake anyway
            os.write(entry.wake[1], b"w")


def _end(child: Child) -> None:
    child.kill()
    if not child.bury(_BURY_S):
        log.warning("process %d was killed and is still there", child.pid)


def _report(label: str, outcome: BuildOutcome) -> None:
    if isinstance(outcome, BuildDone):
        log.info("built %s in %s, peak %s", label, format_seconds(outcome.seconds), format_bytes(outcome.peak_bytes))
    elif outcome.kind in (FailureKind.REFUSED, FailureKind.CANCELLED):
        log.info("%s is not built (%s): %s", label, outcome.kind.value, outcome.detail)
    else:
        log.warning("%s is not built (%s): %s", label, outcome.kind.value, outcome.detail)


# The pools of this process

_pools: weakref.WeakSet[BuildPool] = weakref.WeakSet()
_shared: BuildPool | None = None
_shared_lock = threading.Lock()
_ending = False


def shared_pool() -> BuildPool:
    """The pool of this process, made on first use, closed when the interpreter ends; a new one in a forked process."""
    global _shared
    with _shared_lock:
        if _shared is None or (_shared.closed and not _ending):
            _shared = BuildPool()
        return _shared


def _close_all() -> None:
    """At the interpreter's end: kill what runs; nothing is half written, since children write nothing of ours."""
    global _ending
    _ending = True
    for pool in list(_pools):
        pool._shut(deliver=False)


def _after_fork() -> None:
    """In a process forked from this one: the children and threads are the parent's."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_pools):
        pool._renew()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
