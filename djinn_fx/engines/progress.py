"""Progress on stderr once compiling takes more than a second: which region, how many are left."""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType

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
