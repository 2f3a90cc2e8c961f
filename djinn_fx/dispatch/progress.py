"""Progress on stderr once compiling takes more than a second: which region, how many are left.

One line on a terminal, rewritten; log records otherwise.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from djinn_fx.threads import ENDING, new_lock, start_thread, tell_of_fork

log = logging.getLogger("djinn_fx.progress")

#: Seconds before the first line; most builds from the cache are over by then.
QUIET_S = 1.0


class Progress:
    """One line on stderr that is rewritten; a log record per region where stderr is not a terminal.

    Args:
        total: how many regions are to be built.
        shown: True or False to force it; None to show it on a terminal.
    """

    def __init__(self, total: int, shown: bool | None) -> None:
        self._total = total
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._finished = 0
        self._label = ""
        self._start = time.monotonic()
        self._written = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._shown:
            self._thread = threading.Thread(target=self._tick, name="djinn-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._written:
            sys.stderr.write("\r" + " " * self._written + "\r")
            sys.stderr.flush()

    def start(self, label: str) -> None:
        """The next region's turn."""
        self._label = label
        log.info("compiling region %s, %d left", label, self._total - self._finished)

    def done(self) -> None:
        """The region is there."""
        self._finished += 1

    def _tick(self) -> None:
        while not self._stop.wait(QUIET_S if not self._written else 0.5):
            seconds = time.monotonic() - self._start
            left = max(self._total - self._finished, 0)
            line = f"djinn: compiling {self._label}, {left} of {self._total} left, {seconds:.0f} s"
            sys.stderr.write("\r" + line.ljust(self._written))
            sys.stderr.flush()
            self._written = max(self._written, len(line))


class Pool(Protocol):
    """What a build pool tells of what is not done: label, state and seconds in it."""

    def pending(self) -> tuple[tuple[str, str, float], ...]:
        """One for every job."""
        ...


_watched: weakref.WeakSet[Pool] = weakref.WeakSet()
_watching = new_lock()


class _Forks:
    """In a forked process nobody watches."""

    def after_fork(self) -> None:
        """Forget who was watched."""
        _watched.clear()


_forks = _Forks()
tell_of_fork(_forks)


def watch(pool: Pool, shown: bool | None) -> None:
    """Show what a pool builds until it has nothing left to do. Returns at once; a pool is watched once at a time.

    Args:
        pool: the pool.
        shown: True or False to force it; None to show it on a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        return
    with _watching:
        if pool in _watched:
            return
        _watched.add(pool)
    start_thread(functools.partial(_watch, weakref.ref(pool)), "djinn-progress")


def _watch(pool: Callable[[], Pool | None], every_s: float = 0.5) -> None:
    start, width = time.monotonic(), 0
    while True:
        ended = ENDING.wait(QUIET_S if not width else every_s)
        with _watching:
            alive = pool()
            jobs = alive.pending() if alive is not None and not ended else ()
            if not jobs:
                if alive is not None:
                    _watched.discard(alive)
                break
        del alive
        line = _line(jobs, time.monotonic() - start)
        sys.stderr.write("\r" + line.ljust(width))
        sys.stderr.flush()
        width = max(width, len(line))
    if width:
        sys.stderr.write("\r" + " " * width + "\r")
        sys.stderr.flush()


def _line(jobs: tuple[tuple[str, str, float], ...], seconds: float) -> str:
    building = [label for label, state, _ in jobs if state == "building"]
    what = f"building {', '.join(building[:2])}" if building else "waiting to build"
    return f"djinn: {what} in the background, {len(jobs)} left, {seconds:.0f} s"
