"""The build pool: queue, admission, de-duplication, and the children that build. No torch.

Threads. One manager thread decides what starts and which idle child has been kept long enough; each build that runs
has a thread that waits for its child, asleep. State is guarded by one plain lock that no callback is called under.
``cancel`` takes no lock at all: it may be called by a finalizer, which can run anywhere, also inside the pool.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

from djinn_fx.pool.admission import pause, schedule
from djinn_fx.pool.jobs import (
    WORKERS,
    BuildFailed,
    BuildJob,
    BuildOutcome,
    BusyElsewhere,
    FailureKind,
    PoolCounters,
)
from djinn_fx.pool.limits import PoolLimits
from djinn_fx.pool.process import Child, ChildError
from djinn_fx.pool.tickets import GIVEN_UP, Entry, JobState, OnDone, OnStart, Ticket, report
from djinn_fx.threads import ENDING, at_end, new_lock, start_thread, tell_of_fork

__all__ = ["BuildPool", "Ticket", "shared_pool"]

log = logging.getLogger("djinn_fx.pool")

#: Seconds after which a job that another process builds is looked at again.
BUSY_RETRY_S = 0.3
#: Seconds for a killed child to be gone; then its warden is killed too.
_BURY_S = 2.0
#: The same when the interpreter ends; their wardens go on with it in any case.
_AT_END_S = 0.3
_COUNTER = {kind: kind.value.replace("-", "_") for kind in FailureKind}


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
        self._closed = False
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._active: set[Entry] = set()  # those a thread is at work on: they have the slots and the memory
        self.after_fork()
        _pools.add(self)
        tell_of_fork(self)

    def after_fork(self) -> None:
        """As new, without touching what there was: that belongs to the process this one was forked from."""
        self._lock = threading.Lock()
        #: Wakes the manager: a ticket to cancel, or None. SimpleQueue may be used by finalizers.
        self._news: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._entries: dict[str, Entry] = {}  # in the order they are to be looked at
        self._threads: set[threading.Thread] = set()
        self._manager: threading.Thread | None = None
        self._counts = dict.fromkeys(("submitted", "joined", "built", "children_started", *_COUNTER.values()), 0)
        for child in [*self._idle, *self._busy]:
            child.forget()
        for entry in self._active:
            entry.close_pipe()
        self._idle, self._busy, self._active = [], set(), set()

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
                    entry = self._entries[job.key] = Entry(job)
                else:
                    self._counts["joined"] += 1
                ticket.entry = entry
                entry.tickets.append(ticket)
                entry.wake_up()
                if self._manager is None:
                    self._manager = start_thread(self._manage, "djinn-pool")
        if closed:
            self._in_thread(partial(ticket.call_done, GIVEN_UP))
        else:
            self._news.put(None)
        return ticket

    def run(self, job: BuildJob) -> BuildOutcome:
        """Have a job built, and wait for it."""
        done: queue.SimpleQueue[BuildOutcome] = queue.SimpleQueue()
        self.submit(job, on_done=done.put)
        return done.get()

    def cancel(self, ticket: Ticket) -> None:
        """The ticket's owner does not want it any more: its callbacks are not called from now on (one that is being
        called is not stopped). The last ticket of a job cancelled: the job is dropped, or its child killed. May be
        called from anywhere, finalizers included, and more than once.
        """
        ticket.cancelled = True
        self._news.put(ticket)

    @property
    def closed(self) -> bool:
        """Whether it takes no jobs any more: their outcome is CANCELLED at once."""
        return self._closed

    @property
    def counters(self) -> PoolCounters:
        """What the pool did so far, in this process."""
        with self._lock:
            building = sum(entry.state is JobState.BUILDING for entry in self._entries.values())
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
                entry.wake_up()
            idle, self._idle = self._idle, []
            children = [*idle, *self._busy]
            manager = self._manager
        self._news.put(None)
        for child in children:
            child.stop()
        for entry in waiting:
            self._deliver(entry, GIVEN_UP)
        until = time.monotonic() + (_BURY_S if deliver else _AT_END_S)
        for child in children:
            child.bury(max(0.0, until - time.monotonic()))
            if child in idle:
                child.kill()
        # A callback that never ends must not keep the interpreter from ending: no child is in its thread any more.
        # At the end of the interpreter all threads are waited for together.
        until = time.monotonic() + (_BURY_S if deliver else 0.0)
        if manager is not None and manager is not threading.current_thread():
            manager.join(max(0.0, until - time.monotonic()))  # first: it may be starting threads
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # The manager

    def _manage(self) -> None:
        wait_s: float | None = None
        while not self._closed:
            with suppress(queue.Empty):
                ticket = self._news.get(timeout=wait_s)
                while True:
                    if ticket is not None:
                        self._drop(ticket)
                    ticket = self._news.get_nowait()
            try:
                wait_s = self._turn(time.monotonic())
            except Exception:
                log.exception("the build pool could not see to its jobs; it tries again")
                wait_s = 1.0

    def _turn(self, now: float) -> float | None:
        """Start and end what is due; seconds until something will be due, None for never."""
        with self._lock:
            if self._closed:
                return None
            plan = schedule(
                self._entries.values(),
                active=list(self._active),
                idle=self._idle,
                limits=self.limits,
                workers=self._workers,
                now=now,
            )
            self._idle = plan.idle
            for entry in [*plan.starting, *(entry for entry, _ in plan.refused)]:
                entry.running = True
            self._active.update(plan.starting)
            wait_s = pause(self._entries.values(), self._idle, self.limits, now)
        tasks: list[Callable[[], None]] = [partial(child.end, _BURY_S) for child in plan.leaving]
        tasks += [partial(self._deliver, entry, failure) for entry, failure in plan.refused]
        tasks += [partial(self._run, entry) for entry in plan.starting]
        for task in tasks:
            self._in_thread(task)
        return wait_s

    def _drop(self, ticket: Ticket) -> None:
        """One ticket is cancelled."""
        with self._lock:
            entry = ticket.entry
            if entry is None or ticket not in entry.tickets:
                return  # delivered, or cancelled before
            entry.tickets.remove(ticket)
            if entry.tickets:
                return
            self._counts["cancelled"] += 1
            entry.move(JobState.DROPPED)
            if self._entries.get(entry.job.key) is entry:
                del self._entries[entry.job.key]  # who wants it from now on starts anew
            entry.wake_up()
        log.info("%s is dropped: nobody wants it any more", entry.label)

    # A build's thread

    def _run(self, entry: Entry) -> None:
        """One turn of a job: build it, or find that another process does."""
        elsewhere = False
        try:
            with ExitStack() as stack:
                try:
                    with self._lock:
                        entry.open_pipe()
                    outcome: BuildOutcome | None = stack.enter_context(entry.job.guard())
                    if outcome is None:
                        outcome = self._build(entry)
                except BusyElsewhere:
                    elsewhere = True
                except Exception as error:
                    log.exception("%s: the pool cannot build it", entry.label)
                    outcome = BuildFailed(kind=FailureKind.CRASHED, detail=f"{type(error).__name__}: {error}")
                if not elsewhere:
                    assert outcome is not None
                    self._deliver(entry, outcome)
        except Exception:
            log.exception("%s: its lock cannot be let go", entry.label)
        finally:
            self._put_away(entry, elsewhere)

    def _build(self, entry: Entry) -> BuildOutcome:
        """Have a child build it."""
        job, (child, entry.child) = entry.job, (entry.child, None)
        if child is not None and not child.usable():
            child.end(_BURY_S)
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
                entry.started = True
                entry.move(JobState.BUILDING)
            log.info("building %s with %s (process %d)", entry.label, job.worker, child.pid)
            if self._woken(entry):
                return GIVEN_UP
            assert entry.wake is not None
            outcome, reusable = child.build(job, self.limits, entry.wake[0], lambda: self._woken(entry))
        finally:
            self._put_back(child, reusable)
        return outcome

    def _woken(self, entry: Entry) -> bool:
        """Call what joined since; True if nobody wants it any more."""
        with self._lock:
            if self._closed or entry.state is JobState.DROPPED:
                return True
            tickets = list(entry.tickets)
        for ticket in tickets:
            ticket.call_start()
        return False

    def _put_back(self, child: Child, reusable: bool) -> None:
        """A child has finished: keep it for the next job, or end it."""
        leaving = [child]
        with self._lock:
            self._busy.discard(child)
            if reusable and not self._closed and self.limits.idle_s > 0:
                idle = [*self._idle, child]
                leaving, self._idle = idle[: -self.limits.children], idle[-self.limits.children :]
        for one in leaving:
            one.end(_BURY_S)

    def _put_away(self, entry: Entry, elsewhere: bool) -> None:
        """The turn is over: give the slot back, and queue the job again if another process builds it."""
        child, entry.child = entry.child, None
        if child is not None:
            self._put_back(child, reusable=True)
        with self._lock:
            self._active.discard(entry)
            entry.close_pipe()
            again = elsewhere and entry.state is not JobState.DROPPED
            if again and not self._closed:
                entry.move(JobState.ELSEWHERE)
                entry.running, entry.not_before = False, time.monotonic() + BUSY_RETRY_S
                self._entries[entry.job.key] = self._entries.pop(entry.job.key)  # to the back of the queue
                again = False
        if again:
            self._deliver(entry, GIVEN_UP)
        self._news.put(None)

    def _deliver(self, entry: Entry, outcome: BuildOutcome) -> None:
        """Tell everybody who waits."""
        with self._lock:
            if isinstance(outcome, BuildFailed) and (self._closed or entry.state is JobState.DROPPED):
                outcome = GIVEN_UP  # its child was killed for that, however it looked
            if self._entries.get(entry.job.key) is entry:
                del self._entries[entry.job.key]
                if isinstance(outcome, BuildFailed):
                    self._counts[_COUNTER[outcome.kind]] += 1
                else:
                    self._counts["built"] += entry.started
            tickets, entry.tickets = entry.tickets, []
            for ticket in tickets:
                ticket.entry = None  # whoever keeps a ticket does not keep the job's blobs
        report(entry.label, outcome)
        for ticket in tickets:
            if entry.started:
                ticket.call_start()
            ticket.call_done(outcome)

    def _in_thread(self, work: Callable[[], None]) -> None:
        thread = start_thread(work, "djinn-pool-build")
        if thread is None:
            work()  # no more threads, or the interpreter ends: late rather than never
            return
        for one in list(self._threads):
            if not one.is_alive():
                self._threads.discard(one)
        self._threads.add(thread)


# The pools of this process

_pools: weakref.WeakSet[BuildPool] = weakref.WeakSet()
_shared: dict[bool, BuildPool] = {}
_shared_lock = new_lock()


def shared_pool(*, waited_for: bool = False) -> BuildPool:
    """The pool of this process, made on first use, closed when the interpreter ends; a new one in a forked process.

    Args:
        waited_for: the one whose builds somebody waits for: its children have this process's own priority.
    """
    with _shared_lock:
        pool = _shared.get(waited_for)
        if pool is None or (pool.closed and not ENDING.is_set()):
            limits = PoolLimits.default()
            pool = BuildPool(replace(limits, nice=0, idle_class=False) if waited_for else limits)
            _shared[waited_for] = pool
        return pool


def _close_all() -> None:
    """At the interpreter's end: kill what runs; nothing is half written, since children write nothing of ours."""
    for pool in list(_pools):
        pool._shut(deliver=False)


at_end(_close_all)
