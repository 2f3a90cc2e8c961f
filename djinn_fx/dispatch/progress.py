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
from typing import Protocol, TextIO

from djinn_fx.threads import ENDING, new_lock, start_thread, tell_of_fork

log = logging.getLogger("djinn_fx.progress")

#: Seconds before the first line, as most builds from the cache are over by then; and from one to the next.
QUIET_S, EVERY_S = 1.0, 0.5


class Line:
    """One line that is rewritten, and gone at the end.

    Args:
        file: where to; None: stderr, as it is when something is written.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file, self._width = file, 0

    @property
    def is_there(self) -> bool:
        """Whether something is to be seen."""
        return self._width > 0

    def show(self, text: str) -> None:
        """Write over what is there."""
        self._write(f"\r{text.ljust(self._width)}")
        self._width = max(self._width, len(text))

    def clear(self) -> None:
        """Leave nothing."""
        if self._width:
            self._write(f"\r{' ' * self._width}\r")
            self._width = 0

    def _write(self, text: str) -> None:
        file = self._file if self._file is not None else sys.stderr
        file.write(text)
        file.flush()


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
        self._line = Line()
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
        self._line.clear()

    def start(self, label: str) -> None:
        """The next region's turn."""
        self._label = label
        log.info("compiling region %s, %d left", label, self._total - self._finished)

    def done(self) -> None:
        """The region is there."""
        self._finished += 1

    def _tick(self) -> None:
        while not self._stop.wait(EVERY_S if self._line.is_there else QUIET_S):
            seconds = time.monotonic() - self._start
            left = max(self._total - self._finished, 0)
            self._line.show(f"djinn: compiling {self._label}, {left} of {self._total} left, {seconds:.0f} s")


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


def _watch(pool: Callable[[], Pool | None], every_s: float = EVERY_S) -> None:
    start, line = time.monotonic(), Line()
    while True:
        ended = ENDING.wait(every_s if line.is_there else QUIET_S)
        with _watching:
            alive = pool()
            jobs = alive.pending() if alive is not None and not ended else ()
            if not jobs:
                if alive is not None:
                    _watched.discard(alive)
                break
        del alive
        line.show(_told(jobs, time.monotonic() - start))
    line.clear()


def _told(jobs: tuple[tuple[str, str, float], ...], seconds: float) -> str:
    building = [label for label, state, _ in jobs if state == "building"]
    what = f"building {', '.join(building[:2])}" if building else "waiting to build"
    return f"djinn: {what} in the background, {len(jobs)} left, {seconds:.0f} s"
