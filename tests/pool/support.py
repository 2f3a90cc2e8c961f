"""Helpers of the pool's tests: a pool of faulty workers, what was delivered, and who is still alive."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.compiling import faulty
from djinn_fx.pool.jobs import WORKERS, BuildDone, BuildFailed, BuildJob, BuildOutcome
from djinn_fx.pool.limits import PoolLimits
from djinn_fx.pool.supervisor import BuildPool, Ticket
from tests.waiting import LONG

MIB = 2**20


def limits(**changes: Any) -> PoolLimits:
    """Two children and a gigabyte, whatever the machine does meanwhile."""
    return PoolLimits(**{"children": 2, "memory_bytes": 1024 * MIB, "check_available": False, **changes})


def pool_of(workers: Mapping[str, str] = {}, **changes: Any) -> BuildPool:
    """A pool that has the faulty worker."""
    return BuildPool(limits(**changes), workers={**WORKERS, **faulty.WORKERS, **workers}, extra_path=faulty.EXTRA_PATH)


def job(fault: str = "none", *, key: str | None = None, **given: Any) -> BuildJob:
    """A job for it; arguments that are fields of the job are, the others go into the request."""
    own = ("blobs", "label", "memory_bytes", "timeout_s", "guard", "worker")
    fields = {name: given.pop(name) for name in own if name in given}
    fields = {"worker": "faults", "timeout_s": LONG, "memory_bytes": 64 * MIB, **fields}
    return BuildJob(key=key or uuid.uuid4().hex, request={"fault": fault, **given}, **fields)


class Waiter:
    """What one submission brought: ``events`` is what was called, in order."""

    def __init__(self, pool: BuildPool, job: BuildJob, then: Callable[[], None] = lambda: None) -> None:
        self.events: list[str] = []
        self.outcomes: list[BuildOutcome] = []
        self.started = threading.Event()
        self.done = threading.Event()
        self._then = then
        self.ticket: Ticket = pool.submit(job, on_start=self._start, on_done=self._end)

    def _start(self) -> None:
        self.events.append("start")
        self.started.set()

    def _end(self, outcome: BuildOutcome) -> None:
        self.events.append("done")
        self.outcomes.append(outcome)
        self._then()
        self.done.set()

    def outcome(self) -> BuildOutcome:
        """The outcome, waited for."""
        assert self.done.wait(LONG), "stuck"
        assert len(self.outcomes) == 1
        return self.outcomes[0]

    def artefact(self) -> BuildDone:
        """The same, which must be an artefact."""
        outcome = self.outcome()
        assert isinstance(outcome, BuildDone), outcome
        return outcome

    def failure(self) -> BuildFailed:
        """The same, which must be a failure."""
        outcome = self.outcome()
        assert isinstance(outcome, BuildFailed), outcome
        return outcome


def alive(mark: str) -> list[int]:
    """Processes with this in their environment, but for this one; the dead that nobody has buried do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in environment and state not in "ZX":
            found.append(int(folder.name))
    return found
