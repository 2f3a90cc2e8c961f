"""Jobs in the pool's hands and those who wait for them. No torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from djinn_fx.pool.jobs import BuildDone, BuildFailed, BuildJob, BuildOutcome, FailureKind
from djinn_fx.pool.process import Child
from djinn_fx.units import format_bytes, format_seconds

log = logging.getLogger("djinn_fx.pool")

OnStart = Callable[[], None]
OnDone = Callable[[BuildOutcome], None]

GIVEN_UP = BuildFailed(kind=FailureKind.CANCELLED, detail="the build was given up")


class JobState(str, Enum):
    """Where a job is."""

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
    on_start: OnStart | None = field(repr=False)
    on_done: OnDone = field(repr=False)
    entry: Entry | None = field(default=None, repr=False)  # until it is delivered
    started: bool = field(default=False, repr=False)
    cancelled: bool = field(default=False, repr=False)

    def call_start(self) -> None:
        """``on_start``, once; by the one thread that has the job."""
        if self.started or self.cancelled:
            return
        self.started = True
        if self.on_start is not None:
            try:
                self.on_start()
            except Exception:
                log.exception("what is to be done when %s starts failed", self.key[:12])

    def call_done(self, outcome: BuildOutcome) -> None:
        """``on_done``, unless the ticket was cancelled."""
        if self.cancelled:
            return
        try:
            self.on_done(outcome)
        except Exception:
            log.exception("what is to be done with the outcome of %s failed", self.key[:12])


@dataclass(eq=False)
class Entry:
    """A job and everybody who waits for it. Guarded by the pool's lock.

    Attributes:
        job: the first one submitted with its key.
        tickets: who waits.
        state: where it is.
        since: when it came there, seconds of time.monotonic.
        not_before: when to look at it again.
        overtaken: how many jobs started that came after it, while it waited for memory.
        running: a thread has it.
        started: a child builds it: ``on_start`` is due.
        child: the idle one that is to build it.
        wake: a pipe that wakes its thread.
    """

    job: BuildJob
    tickets: list[Ticket] = field(default_factory=list)
    state: JobState = JobState.QUEUED
    since: float = field(default_factory=time.monotonic)
    not_before: float = 0.0
    overtaken: int = 0
    running: bool = False
    started: bool = False
    child: Child | None = None
    wake: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """For messages."""
        return self.job.label or self.job.key[:12]

    def move(self, state: JobState) -> None:
        """To another state; what is dropped stays so."""
        if state is not self.state and self.state is not JobState.DROPPED:
            self.state, self.since = state, time.monotonic()

    def open_pipe(self) -> None:
        """Let its thread be woken from now on."""
        self.wake = os.pipe()
        for end in self.wake:
            os.set_blocking(end, False)

    def close_pipe(self) -> None:
        """Its thread has come to its end."""
        for end in self.wake or ():
            os.close(end)
        self.wake = None

    def wake_up(self) -> None:
        """Have its thread, if it has one, ask what is new."""
        if self.wake is not None:
            with suppress(BlockingIOError):  # full: it will wake anyway
                os.write(self.wake[1], b"w")


def report(label: str, outcome: BuildOutcome) -> None:
    """Log how a job ended: a warning where the builder did what none should."""
    if isinstance(outcome, BuildDone):
        log.info("built %s in %s, peak %s", label, format_seconds(outcome.seconds), format_bytes(outcome.peak_bytes))
        return
    told = outcome.kind in (FailureKind.REFUSED, FailureKind.CANCELLED)
    level = logging.INFO if told else logging.WARNING
    log.log(level, "%s is not built (%s): %s", label, outcome.kind.value, outcome.detail)
